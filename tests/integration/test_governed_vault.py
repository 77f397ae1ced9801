"""The vault of an index: what was replaced comes back for those with the right, recorded, and goes with erasure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lir_agents import AccessDenied, Document, InputError, LateInteractionIndex, Principal, StoreError, VaultFile
from lir_agents.config import IngestSettings, Settings
from lir_agents.policy import AclPolicy
from tests.hashed_encoder import HashedEncoder

KEY = os.urandom(32)
OFFICER = Principal("officer", groups=["privacy", "staff"], tenant="acme")
OUTSIDER = Principal("outsider", groups=["privacy"])
READER = Principal("reader", groups=["staff"])
DOCUMENT = Document(
    id="letter",
    title="From jane.roe@example.com",
    text="Call jane.roe@example.com or +49 30 7315928 about the soup.",
    acl=["staff"],
    metadata={"also": "bob@example.com"},
)
Opening = Callable[..., LateInteractionIndex]


@pytest.fixture
def opening(quick_path: Path, encoder: HashedEncoder) -> Opening:
    def open_it(*, vault: bytes | None = KEY, **more: object) -> LateInteractionIndex:
        file = None if vault is None else VaultFile(quick_path / "apart.vault", vault)
        given = {
            "access": AclPolicy(rights={"vault:read": ["privacy"], "rollback": ["privacy"]}),
            "redactor": True,
            **more,
        }
        return LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, vault=file, **given)  # type: ignore[arg-type]

    return open_it


def looks(index: LateInteractionIndex) -> list[tuple[str, str, bool]]:
    events = index.audit.events(kind="decision", limit=1000)
    return [
        (event.principal_id, event.payload["detail"]["placeholder"], event.payload["decision"]["allowed"])
        for event in events
        if event.payload["detail"].get("operation") == "reveal"
    ]


def test_those_with_the_right_are_told_and_it_is_recorded(opening):
    with opening() as index:
        index.add([DOCUMENT])
        (hit,) = index.search("soup", principal=OFFICER)
        assert hit.text == "Call [EMAIL_1] or [PHONE_1] about the soup."
        assert index.reveal("letter", "[EMAIL_1]", principal=OFFICER) == "jane.roe@example.com"
        assert index.reveal("letter", "[PHONE_1]", principal=OFFICER) == "+49 30 7315928"
        assert index.reveal("letter", "[EMAIL_2]", 1, principal=OFFICER) == "bob@example.com"
        assert looks(index) == [("officer", name, True) for name in ("[EMAIL_1]", "[PHONE_1]", "[EMAIL_2]")]
        event = index.audit.events(kind="decision", limit=1000)[-1]
        assert event.tenant == "acme"
        assert event.payload["detail"]["document"]["document_id"] == "letter"
        assert "jane" not in event.body


@pytest.mark.parametrize(
    ("who", "name", "placeholder"),
    [
        (READER, "letter", "[EMAIL_1]"),
        (OUTSIDER, "letter", "[EMAIL_1]"),
        (OFFICER, "letter", "[EMAIL_9]"),
        (OFFICER, "no such letter", "[EMAIL_1]"),
        (None, "letter", "[EMAIL_1]"),
    ],
)
def test_everybody_else_is_refused_and_it_is_recorded(opening, who, name, placeholder):
    with opening() as index:
        index.add([DOCUMENT])
        before = index.audit.size
        with pytest.raises(AccessDenied):
            index.reveal(name, placeholder, principal=who)
        (refusal,) = index.audit.events(limit=1000)[before:]
        assert refusal.payload["decision"]["allowed"] is False
        assert refusal.payload["decision"]["action"] == "vault:read"
        assert refusal.principal_id == ("" if who is None else who.id)


def test_todays_grants_count_for_old_versions_too(opening):
    with opening() as index:
        index.add([DOCUMENT])
        index.add([replace(DOCUMENT, acl=["board"])])
        for version in (None, 1, 2):
            with pytest.raises(AccessDenied):
                index.reveal("letter", "[EMAIL_1]", version, principal=OFFICER)
        index.add([replace(DOCUMENT, acl=["staff", "board"])])
        assert index.reveal("letter", "[EMAIL_1]", principal=OFFICER) == "jane.roe@example.com"
        assert index.reveal("letter", "[EMAIL_1]", 1, principal=OFFICER) == "jane.roe@example.com"


def test_what_a_rollback_brings_back_stands_for_what_it_stood_for(opening):
    """Under the grants of today, twice over: the values were sealed with those of the day it was added."""
    other = replace(DOCUMENT, text="Write to else@example.com.", metadata={}, title="", acl=["staff", "board"])
    with opening() as index:
        index.add([DOCUMENT])
        index.add([other])
        for version in (1, 3):
            index.rollback("letter", version, principal=OFFICER)
            assert index.reveal("letter", "[EMAIL_1]", principal=OFFICER) == "jane.roe@example.com"
            with pytest.raises(AccessDenied):
                index.reveal("letter", "[EMAIL_1]", principal=OUTSIDER)


def test_nothing_is_told_that_could_not_be_recorded(opening, monkeypatch):
    with opening() as index:
        index.add([DOCUMENT])

        def full(*args: object) -> None:
            raise StoreError("the disk is full", store="audit", operation="append")

        monkeypatch.setattr(index.audit._writer, "append", full)
        with pytest.raises(StoreError, match="disk is full"):
            index.reveal("letter", "[EMAIL_1]", principal=OFFICER)


def test_erasure_empties_the_vault(opening, quick_path):
    with opening() as index:
        index.add([DOCUMENT, replace(DOCUMENT, id="other")])
        index.erase(["letter"])
        with pytest.raises(AccessDenied):
            index.reveal("letter", "[EMAIL_1]", principal=OFFICER)
        assert index.reveal("other", "[EMAIL_1]", principal=OFFICER) == "jane.roe@example.com"
    assert b"letter" not in (quick_path / "apart.vault").read_bytes()


def test_no_replaced_word_is_in_any_byte(opening, quick_path):
    with opening() as index:
        index.add([DOCUMENT])
        index.reveal("letter", "[EMAIL_1]", principal=OFFICER)
    found = b"".join(path.read_bytes() for path in quick_path.rglob("*") if path.is_file())
    for word in (b"jane.roe", b"7315928", b"bob@", KEY):
        assert word not in found


def test_an_index_that_had_a_vault_loses_nothing_without_it(opening):
    with opening() as index:
        index.add([DOCUMENT])
    with opening(vault=None) as index:
        assert len(index.search("soup", principal=READER)) == 1
        assert index.add([Document(id="plain", text="Nothing to hide.", acl=["staff"])]).added == 1
        for asked in (
            lambda: index.reveal("letter", "[EMAIL_1]", principal=OFFICER),
            lambda: index.erase(["letter"]),
            lambda: index.add([replace(DOCUMENT, id="another")]),
        ):
            with pytest.raises(InputError, match="vault"):
                asked()
        assert index.get("letter", principal=READER) is not None
        assert index.get("another", principal=READER) is None
    with opening() as index:
        assert index.reveal("letter", "[EMAIL_1]", principal=OFFICER) == "jane.roe@example.com"


def test_a_vault_needs_a_redactor_and_its_key(opening, quick_path, encoder):
    with pytest.raises(InputError, match="redacts nothing"):
        LateInteractionIndex.open(
            quick_path / "j.lir", encoder=encoder, vault=VaultFile(quick_path / "j.vault", KEY)
        )
    assert "key" not in repr(VaultFile("x", KEY)).replace("KEY", "")
    with opening() as index:
        index.add([DOCUMENT])
    from lir_agents import IntegrityError

    with pytest.raises(IntegrityError):
        opening(vault=os.urandom(32))


def test_redaction_can_be_asked_for_by_a_setting(quick_path, encoder):
    asked = Settings(ingest=IngestSettings(redact=True))
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, settings=asked) as index:
        index.add([Document(id="d", text="Write to jane.roe@example.com.")])
        assert index.get("d").text == "Write to [EMAIL_1]."
    with LateInteractionIndex.open(quick_path / "plain.lir", encoder=encoder):
        pass
    with pytest.raises(InputError, match="redactor"):
        LateInteractionIndex.open(quick_path / "plain.lir", encoder=encoder, settings=asked)
