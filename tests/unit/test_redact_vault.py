"""The vault: sealed on disk, opened only under its own right, every look recorded before it is granted."""

from __future__ import annotations

import os
import sqlite3

import pytest

from lir_agents.errors import AccessDenied, ConfigError, IntegrityError
from lir_agents.ingest.redact import PatternRedactor
from lir_agents.ingest.redact_keeping import VAULT_ACTION
from lir_agents.ingest.redact_vault import SqliteVault
from lir_agents.policy import AclPolicy
from lir_agents.types import Document, Principal

KEY = bytes(range(32))
POLICY = AclPolicy(rights={VAULT_ACTION: ["group:privacy"]})
OFFICER = Principal("officer", groups=["group:privacy", "group:staff"])
OUTSIDER = Principal("outsider", groups=["group:privacy"])
TEXT = "write to bob@exa\u200bmple.com or BOB@example.com, or call +49 30 1234567"
READABLE = POLICY.access_key(Document("t", acl=["group:staff"]))


@pytest.fixture
def log():
    return []


@pytest.fixture
def vault(tmp_path, log):
    vault = SqliteVault(tmp_path / "vault.db", KEY, log.append)
    vault.keep("doc", "sha", READABLE, TEXT, PatternRedactor().redact(TEXT).findings)
    yield vault
    vault.close()


def test_who_has_the_right_and_may_read_the_document_gets_the_value(vault, log):
    right = POLICY.authorize(OFFICER, VAULT_ACTION)
    assert vault.reveal(right, "doc", "sha", READABLE, "[PHONE_1]") == "+49 30 1234567"
    assert vault.reveal(right, "doc", "sha", READABLE, "[EMAIL_1]") == "BOB@example.com"
    assert [(look.principal_id, look.placeholder, look.allowed) for look in log] == [
        ("officer", "[PHONE_1]", True),
        ("officer", "[EMAIL_1]", True),
    ]
    assert "1234567" not in repr(log)


@pytest.mark.parametrize(
    ("principal", "action", "document", "placeholder"),
    [
        (OFFICER, "search", "doc", "[PHONE_1]"),
        (OUTSIDER, VAULT_ACTION, "doc", "[PHONE_1]"),
        (OFFICER, VAULT_ACTION, "other", "[PHONE_1]"),
        (OFFICER, VAULT_ACTION, "doc", "[PHONE_2]"),
    ],
)
def test_everybody_else_is_refused_and_recorded(vault, log, principal, action, document, placeholder):
    with pytest.raises(AccessDenied) as refused:
        vault.reveal(POLICY.authorize(principal, action), document, "sha", READABLE, placeholder)
    assert refused.value.decision.allowed is False
    assert [look.allowed for look in log] == [False]


def test_what_exists_is_refused_in_the_same_words_as_what_does_not(vault):
    right = POLICY.authorize(OUTSIDER, VAULT_ACTION)
    words = []
    for document in ("doc", "no such document"):
        with pytest.raises(AccessDenied) as refused:
            vault.reveal(right, document, "sha", READABLE, "[PHONE_1]")
        words.append(str(refused.value))
    assert words[0] == words[1]


def test_nothing_is_revealed_that_was_not_recorded(tmp_path):
    def full(_):
        raise OSError("no space left")

    vault = SqliteVault(tmp_path / "v.db", KEY, full)
    vault.keep("doc", "sha", READABLE, TEXT, PatternRedactor().redact(TEXT).findings)
    with pytest.raises(OSError, match="space"):
        vault.reveal(POLICY.authorize(OFFICER, VAULT_ACTION), "doc", "sha", READABLE, "[PHONE_1]")


def test_no_value_stands_in_the_file_and_forgetting_removes_the_rows(vault, tmp_path):
    def bytes_on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"bob@" not in bytes_on_disk()
    assert b"1234567" not in bytes_on_disk()
    assert b"[PHONE_1]" in bytes_on_disk()
    assert vault.forget(["doc", "unknown"]) == 2
    assert b"[PHONE_1]" not in bytes_on_disk()
    with pytest.raises(AccessDenied):
        vault.reveal(POLICY.authorize(OFFICER, VAULT_ACTION), "doc", "sha", READABLE, "[PHONE_1]")


def test_another_key_or_an_altered_row_is_detected(vault, tmp_path, log):
    with pytest.raises(IntegrityError):
        SqliteVault(tmp_path / "vault.db", os.urandom(32), log.append)
    with pytest.raises(ConfigError):
        SqliteVault(tmp_path / "other.db", b"short", log.append)
    widened = POLICY.access_key(Document("t", acl=["group:privacy"]))
    with sqlite3.connect(tmp_path / "vault.db") as db:
        db.execute("UPDATE vault SET access_key = ?", (widened,))
    with pytest.raises(IntegrityError):
        vault.reveal(POLICY.authorize(OUTSIDER, VAULT_ACTION), "doc", "sha", widened, "[PHONE_1]")


def test_what_is_alike_once_it_is_redacted_stands_for_its_own_value(vault):
    """The same text for other readers, with another number in it."""
    others = POLICY.access_key(Document("t", acl=["group:privacy"]))
    text = TEXT.replace("1234567", "7654321")
    vault.keep("doc", "sha", others, text, PatternRedactor().redact(text).findings)
    told = [
        vault.reveal(POLICY.authorize(who, VAULT_ACTION), "doc", "sha", key, "[PHONE_1]")
        for who, key in ((OFFICER, READABLE), (OUTSIDER, others))
    ]
    assert [number[-7:] for number in told] == ["1234567", "7654321"]
    with pytest.raises(AccessDenied):
        vault.reveal(POLICY.authorize(OUTSIDER, VAULT_ACTION), "doc", "sha", READABLE, "[PHONE_1]")


def test_it_opens_again_with_its_key(vault, tmp_path, log):
    vault.close()
    again = SqliteVault(tmp_path / "vault.db", KEY, log.append)
    assert (
        again.reveal(POLICY.authorize(OFFICER, VAULT_ACTION), "doc", "sha", READABLE, "[PHONE_1]")
        == "+49 30 1234567"
    )
