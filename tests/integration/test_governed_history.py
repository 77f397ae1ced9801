"""Versions, what changed, going back: through the policy, recorded, and never encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.config import AuditSettings, Settings
from lir_agents.errors import AccessDenied, InputError, StoreError
from lir_agents.policy import AclPolicy
from tests.hashed_encoder import HashedEncoder

ADMIN = Principal("ada", groups=["group:admin", "group:a", "group:b"])
ANNE = Principal("anne", groups=["group:a"])
BOB = Principal("bob", groups=["group:b"])


def edition(number: int, ids: range = range(6)) -> list[Document]:
    """Even documents are Anne's, odd ones Bob's; each line is a sentence of its edition."""
    return [
        Document(
            id=f"rule/{i}",
            title=f"Rule {i}",
            text=f"Rule {i} says pay {i} coins.\n\nIt is edition {number} of the rule.",
            acl=["group:a" if i % 2 == 0 else "group:b"],
            metadata={"edition": number, "stays": True},
        )
        for i in ids
    ]


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    policy = AclPolicy(rights={"rollback": ["group:admin"]})
    with LateInteractionIndex.open(quick_path / "i.lir", access=policy, encoder=encoder) as opened:
        yield opened


def texts(index: LateInteractionIndex) -> dict[str, str]:
    return {hit.document_id: hit.text for hit in index.search("rule coins edition", k=50, principal=ADMIN)}


def test_versions_are_told_to_those_who_may_read(index):
    index.add(edition(1))
    index.add(edition(2, range(2)))
    told = index.versions("rule/0", principal=ANNE)
    assert [(info.version, info.live) for info in told] == [(1, False), (2, True)]
    assert index.versions("rule/0", principal=BOB) == []
    assert index.versions("no such rule", principal=BOB) == []
    with pytest.raises(AccessDenied):
        index.versions("rule/0")
    last = index.audit.events(kind="decision", limit=100)
    assert [event.payload["detail"].get("operation") for event in last] == ["versions", None]
    assert last[0].payload["detail"]["document"] == "rule/0"


def test_changes_name_only_what_the_caller_may_read(index):
    index.add(edition(1))
    between = datetime.now(UTC)
    index.add(edition(2, range(2)))
    index.delete(["rule/2", "rule/3"])
    seen = [(one.kind, one.document_id, one.previous, one.version) for one in index.changes(1, principal=ANNE)]
    assert seen == [("updated", "rule/0", 1, 2), ("retired", "rule/2", 1, None)]
    assert {one.document_id for one in index.changes(1, principal=BOB)} == {"rule/1", "rule/3"}
    assert index.changes(between, principal=ANNE) == index.changes(1, principal=ANNE)
    assert index.changes(principal=Principal("zoe")) == []
    index.erase(["rule/0"])
    assert [one.document_id for one in index.changes(1, principal=ANNE)] == ["rule/2"]
    for wrong in (-1, True, "1", datetime(2026, 1, 1)):
        with pytest.raises(InputError, match="since"):
            index.changes(wrong, principal=ANNE)


def test_a_diff_tells_lines_passages_and_fields(index):
    index.add(edition(1))
    index.add(edition(2))
    told = index.diff("rule/0", 1, 2, principal=ANNE)
    assert told.changed
    assert "-It is edition 1 of the rule." in told.lines
    assert "+It is edition 2 of the rule." in told.lines
    assert told.fields == {"metadata.edition": (1, 2)}
    assert (told.removed, told.added) == (("rule/0#1.0",), ("rule/0#2.0",))
    assert not index.diff("rule/0", 2, 2, principal=ANNE).changed
    assert index.diff("rule/0", 1, 2, principal=BOB) is None
    assert index.diff("rule/0", 1, 3, principal=ANNE) is None


def test_a_document_goes_back_without_being_encoded(index, encoder):
    index.add(edition(1))
    before = {name: text for name, text in texts(index).items() if name == "rule/0"}
    index.add(edition(2))
    encoder.documents.clear()
    assert index.rollback("rule/0", 1, principal=ADMIN) == 3
    assert encoder.documents == []
    assert texts(index)["rule/0"] == before["rule/0"]
    assert index.get("rule/0", principal=ANNE).metadata["edition"] == 1
    assert index.versions("rule/0", principal=ANNE)[-1].restored_from == 1
    (event,) = index.audit.events(kind="version")
    assert (event.principal_id, event.payload["operation"]) == ("ada", "rollback")
    assert event.payload["documents"] == [{"version": 1, "document": {"document_id": "rule/0"}}]
    assert index.verify() == []


def test_going_back_gives_no_access_back(index):
    index.add(edition(1, range(1)))
    index.add([Document(id="rule/0", text="Rule 0 is Bob's now.", acl=["group:b"])])
    index.rollback("rule/0", 1, principal=ADMIN)
    assert index.get("rule/0", principal=ANNE) is None
    assert "edition 1" in index.get("rule/0", principal=BOB).text


def test_going_back_is_for_those_who_were_given_the_right(index):
    index.add(edition(1))
    index.add(edition(2))
    for principal in (None, ANNE):
        with pytest.raises(AccessDenied):
            index.rollback("rule/0", 1, principal=principal)
        with pytest.raises(AccessDenied):
            index.rollback_to(1, principal=principal)
    for name, version in (("rule/0", 9), ("nothing", 1)):
        with pytest.raises(InputError, match="version"):
            index.rollback(name, version, principal=ADMIN)
    narrow = Principal("nora", groups=["group:admin", "group:a"])
    with pytest.raises(InputError, match="version"):
        index.rollback("rule/1", 1, principal=narrow)
    report = index.rollback_to(1, principal=narrow)
    assert (report.restored, report.retired) == (3, 0)
    assert {name: "edition 1" in text for name, text in texts(index).items()} == {
        f"rule/{i}": i % 2 == 0 for i in range(6)
    }


def test_the_whole_index_goes_back_in_one_step_without_encoding(index, encoder):
    index.add(edition(1))
    then, moment = texts(index), datetime.now(UTC)
    index.add(edition(2, range(2, 9)))
    index.delete(["rule/0"])
    index.erase(["rule/1"])
    encoder.documents.clear()
    epoch = index.stats()["epoch"]
    report = index.rollback_to(moment, principal=ADMIN)
    assert encoder.documents == []
    assert (report.to_epoch, report.epoch, report.restored, report.retired) == (1, epoch + 1, 5, 3)
    assert texts(index) == {name: text for name, text in then.items() if name != "rule/1"}
    assert index.verify() == []
    again = index.rollback_to(1, principal=ADMIN)
    assert (again.epoch, again.restored, again.retired) == (report.epoch, 0, 0)
    index.rollback_to(2, principal=ADMIN)
    assert {name for name, text in texts(index).items() if "edition 2" in text} == {
        f"rule/{i}" for i in range(2, 9)
    }


def test_a_rollback_that_cannot_be_recorded_does_not_happen(index, monkeypatch):
    index.add(edition(1))
    index.add(edition(2))
    now, epoch = texts(index), index.stats()["epoch"]
    writer = index.audit._writer  # the log is real; its disk is full

    def full(entries):
        raise StoreError("database or disk is full", store="audit", operation="append")

    monkeypatch.setattr(writer, "append", full)
    with pytest.raises(StoreError, match="full"):
        index.rollback_to(1, principal=ADMIN)
    monkeypatch.undo()
    assert (texts(index), index.stats()["epoch"]) == (now, epoch)


def test_an_open_index_goes_back_for_its_owner(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "open.lir", encoder=encoder) as index:
        index.add([{"id": "a", "text": "First."}])
        index.add([{"id": "a", "text": "Second."}])
        assert index.rollback("a", 1) == 3
        assert index.get("a").text == "First."


@pytest.mark.parametrize(("durability", "synchronous"), [("disk", 2), ("process", 1)])
def test_when_an_event_counts_as_recorded_is_a_setting(quick_path, encoder, durability, synchronous):
    settings = Settings(audit=AuditSettings(durability=durability))
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, settings=settings) as index:
        assert index.audit._database.writer.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert Settings().audit.durability == "process"


def test_a_reader_learns_of_no_other_reader(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        index.add([Document(id="d", text="pay", acl=["group:a", "group:takeover"])])
        for told in (index.get("d", principal=ANNE), index.versions("d", principal=ANNE)):
            assert told
            assert "takeover" not in repr(told)
            assert "access" not in repr(told)


@pytest.mark.parametrize("ahead", [1, 1000, 2**40])
def test_how_often_others_write_shows_in_no_error(index, ahead):
    """An epoch that lies ahead means now, like a moment that does, and replays as what it meant then."""
    index.add(edition(1, range(2)))
    asked = index.rooms.catalog.epoch + ahead
    result = index.search("rule coins", k=9, principal=ANNE, as_of=asked)
    assert [hit.document_id for hit in result] == ["rule/0"]
    index.add(edition(2, range(6)))
    again = index.search("rule coins", k=9, principal=ANNE, as_of=asked)
    assert {hit.version for hit in again} <= {1, 2}
    recorded = index.audit.get(result.event_id)
    assert recorded.payload["as_of"] == asked


def test_an_epoch_that_lay_ahead_replays_as_it_was_then(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        index.add([Document(id="d", text="pay coins")])
        event = index.search("coins", as_of=5).event_id
        for number in range(6):
            index.add([Document(id=f"e{number}", text="coins and coins")])
        report = index.replay(event)
        assert report.same, report.differences
