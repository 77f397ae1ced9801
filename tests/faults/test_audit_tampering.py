"""An edited row, a cut tail and a rewritten log are each detected against a checkpoint kept elsewhere."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lir_agents.audit import AuditEvent, AuditLog, Erasable
from lir_agents.audit.checkpoint import Checkpoint
from lir_agents.audit.merkle import extend, leaf_hash, node_count
from lir_agents.errors import IntegrityError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
EVENTS = 13


@pytest.fixture
def signed(tmp_path) -> tuple[Path, str]:
    """A log's file and the text of a checkpoint of it."""
    path = tmp_path / "audit.sqlite"
    with AuditLog.open(path, durability="process") as log:
        for n in range(EVENTS):
            own, seen = Erasable(f"v{n}"), Erasable(f"d{n}", subject=f"d{n}")
            log.append(AuditEvent("decision", f"p{n}", payload={"n": n, "own": own, "seen": seen}), {"n": n})
        return path, log.checkpoint(KEY).text()


def tamper(path: Path, *statements: str) -> None:
    """What somebody with the file can do: the triggers are no lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for table in ("event", "leaf", "node"):
            for verb in ("UPDATE", "DELETE"):
                database.execute(f"DROP TRIGGER IF EXISTS {table}_{verb}")
        for statement in statements:
            assert database.execute(statement).rowcount != 0, statement


def found(path: Path, checkpoint: str | None = None) -> set[str]:
    with AuditLog.open(path, read_only=True) as log:
        if checkpoint is None:
            return {problem.code for problem in log.verify().problems}
        return {p.code for p in log.verify(Checkpoint.parse(checkpoint), KEY.public_key()).problems}


def rebuild_tree(path: Path) -> None:
    """Makes ids and tree fit the leaves again, as a careful forger would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        frontier: list[bytes] = []
        for at, body in database.execute("SELECT position, body FROM leaf ORDER BY position").fetchall():
            digest = leaf_hash(body.encode())
            database.execute("UPDATE event SET event_id=? WHERE position=?", (digest[:16], at))
            for position, node in enumerate(extend(frontier, at, digest), node_count(at)):
                database.execute("UPDATE node SET hash=? WHERE position=?", (node, position))


def test_an_untouched_log_verifies(signed):
    path, checkpoint = signed
    assert found(path, checkpoint) == set()


EDITS: dict[str, tuple[str, str]] = {
    "body": ("UPDATE leaf SET body=replace(body, '\"n\":5', '\"n\":6') WHERE position=5", "edited"),
    "body no json": ("UPDATE leaf SET body='garbage' WHERE position=5", "edited"),
    "body no text": ("UPDATE leaf SET body=x'ff00' WHERE position=5", "edited"),
    "body no utf-8": ("UPDATE leaf SET body=CAST(x'ff' AS TEXT) WHERE position=5", "edited"),
    "id": ("UPDATE event SET event_id=zeroblob(16) WHERE position=5", "edited"),
    "leaf hash": ("UPDATE node SET hash=zeroblob(32) WHERE position=0", "edited"),
    "interior node": ("UPDATE node SET hash=zeroblob(32) WHERE position=2", "node"),
    "missing node": ("DELETE FROM node WHERE position=2", "edited"),
    "principal": ("UPDATE event SET principal='eve' WHERE position=5", "column"),
    "kind": ("UPDATE event SET kind='ingest' WHERE position=5", "column"),
    "time": ("UPDATE event SET time_us=1 WHERE position=5", "column"),
    "gap": ("DELETE FROM leaf WHERE position=5", "missing"),
    "event gone": ("DELETE FROM event WHERE position=5", "missing"),
    "first gone": ("DELETE FROM leaf WHERE position=0", "missing"),
    "erasable value": ("UPDATE erasable SET value='\"x\"' WHERE position=5 AND part=1", "erasable"),
    "sealed body": ("UPDATE erasable SET value='{}' WHERE position=5 AND part=0", "erasable"),
    "key": ("UPDATE erasable SET key=zeroblob(16) WHERE position=5 AND part=1", "erasable"),
    "key no bytes": ("UPDATE erasable SET key=7 WHERE position=5 AND part=1", "erasable"),
    "another subject": ("UPDATE erasable SET subject='d6' WHERE position=5 AND part=2", "erasable"),
    "no subject": ("UPDATE erasable SET subject=NULL WHERE position=5 AND part=2", "erasable"),
    "empty subject": ("UPDATE erasable SET subject='' WHERE position=5 AND part=1", "erasable"),
    "subject of what has none": ("UPDATE erasable SET subject='d5' WHERE position=5 AND part=1", "erasable"),
    "subject of a sealed body": ("UPDATE erasable SET subject='d5' WHERE position=5 AND part=0", "erasable"),
    "subject no text": ("UPDATE erasable SET subject=x'ff' WHERE position=5 AND part=2", "erasable"),
    "subject no utf-8": ("UPDATE erasable SET subject=CAST(x'ff' AS TEXT) WHERE position=5 AND part=2", "erasable"),
    "invented value": ("INSERT INTO erasable VALUES (5, 9, zeroblob(16), NULL, '1')", "erasable"),
    "value beyond the end": ("INSERT INTO erasable VALUES (99, 1, zeroblob(16), NULL, '1')", "missing"),
    "cut leaves alone": ("DELETE FROM leaf WHERE position>9", "missing"),
}


@pytest.mark.parametrize(("statement", "code"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_is_found_even_without_a_checkpoint(signed, statement, code):
    path, checkpoint = signed
    tamper(path, statement)
    assert code in found(path)
    assert code in found(path, checkpoint)


@pytest.mark.parametrize(
    "change", [lambda key: key[:16], lambda key: key + b"\0", lambda key: key[:16] + bytes(16)]
)
def test_no_other_key_hides_that_a_value_was_put_down_to_another_document(signed, change):
    path, _ = signed
    where = "WHERE position=5 AND part=2"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        (key,) = database.execute(f"SELECT key FROM erasable {where}").fetchone()
        database.execute(f"UPDATE erasable SET subject='d6', key=? {where}", (change(key),))
    assert found(path) == {"erasable"}


def test_a_log_of_keys_that_bind_no_subject_verifies_and_forgets_as_ever(tmp_path, monkeypatch):
    path = tmp_path / "audit.sqlite"
    monkeypatch.setattr("lir_agents.audit.canonical._bound", lambda drawn, subject: drawn)
    with AuditLog.open(path) as log:
        before = log.append(AuditEvent("decision", payload={"seen": Erasable("d1", subject="d1")}), {"q": "soup"})
    monkeypatch.undo()
    with AuditLog.open(path) as log:
        after = log.append(AuditEvent("decision", payload={"seen": Erasable("d1", subject="d1")}), {"q": "soup"})
        assert log.verify().ok
        for event_id in (before, after):
            assert log.get(event_id).payload["seen"] == "d1"
            assert log.confirms(event_id, "d1")
            assert log.unseal(event_id) == {"q": "soup"}
        assert log.erase_documents(["d1"]) == 2
        assert log.verify().ok
        assert not log.confirms(after, "d1")


def test_an_edit_that_is_made_to_fit_is_found_against_the_checkpoint(signed):
    path, checkpoint = signed
    tamper(path, "UPDATE leaf SET body=replace(body, '\"n\":5', '\"n\":6') WHERE position=5")
    rebuild_tree(path)
    assert found(path) == set()  # it all fits together again: only what is kept elsewhere tells
    assert found(path, checkpoint) == {"rewritten"}


def test_a_cut_tail_is_found_against_the_checkpoint(signed):
    path, checkpoint = signed
    tamper(
        path,
        "DELETE FROM leaf WHERE position>=10",
        "DELETE FROM event WHERE position>=10",
        f"DELETE FROM node WHERE position>={node_count(10)}",
        "DELETE FROM erasable WHERE position>=10",
    )
    assert found(path) == set()
    assert found(path, checkpoint) == {"cut"}
    with AuditLog.open(path) as log:  # and still once others have been appended in their place
        log.append_many([AuditEvent("decision")] * 20)
    assert found(path, checkpoint) == {"rewritten"}


@pytest.mark.parametrize("keep_origin", [False, True])
def test_a_log_written_anew_is_found_against_the_checkpoint(signed, tmp_path, keep_origin):
    path, checkpoint = signed
    other = tmp_path / "other.sqlite"
    with AuditLog.open(other, durability="process") as log:
        log.append_many([AuditEvent("decision", payload={"n": n}) for n in range(20)])
    if keep_origin:
        tamper(other, f"UPDATE meta SET value='{Checkpoint.parse(checkpoint).origin}' WHERE key='origin'")
    path.unlink()
    shutil.move(other, path)
    assert found(path) == set()
    assert found(path, checkpoint) == ({"rewritten"} if keep_origin else {"rewritten", "foreign"})


@pytest.mark.parametrize(
    "read",
    [lambda log, event_id: log.get(event_id), lambda log, event_id: log.show(event_id)],
    ids=["get", "show"],
)
def test_an_edited_event_is_never_given_out(signed, read: Callable[[AuditLog, str], object]):
    path, _ = signed
    with AuditLog.open(path) as log:
        event_id = log.events()[5].event_id
    tamper(path, "UPDATE leaf SET body=replace(body, '\"n\":5', '\"n\":6') WHERE position=5")
    with AuditLog.open(path) as log, pytest.raises(IntegrityError, match="event 5"):
        read(log, event_id)


def test_an_edited_sealed_body_is_never_given_out(signed):
    path, _ = signed
    tamper(path, "UPDATE erasable SET value='{}' WHERE position=5 AND part=0")
    with AuditLog.open(path) as log:
        event_id = log.events(after=log.events()[4].event_id)[0].event_id
        with pytest.raises(IntegrityError, match="committed"):
            log.unseal(event_id)


def test_a_damaged_file_raises_and_names_the_remedy(signed):
    path, _ = signed
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="backup"), AuditLog.open(path) as log:
        log.append(AuditEvent("decision"))


def test_the_report_names_the_first_problem(signed):
    path, _ = signed
    tamper(path, "UPDATE event SET principal='eve' WHERE position=5")
    with AuditLog.open(path) as log, pytest.raises(IntegrityError, match="event 5 contradicts"):
        log.verify().raise_if_broken()
