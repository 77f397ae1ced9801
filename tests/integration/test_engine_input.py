"""What bad input gets: a typed error that names field and remedy, or a documented result; nothing half-written."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.config import SearchSettings, Settings
from lir_agents.errors import AccessDenied, InputError, IntegrityError, LirError, StoreError
from lir_agents.stores.filters import MAX_DEPTH
from lir_agents.types import ToolSignal, Turn
from tests.hashed_encoder import HashedEncoder

TEXTS = {
    "leave": "Everybody has thirty days of leave a year.",
    "soup": "The canteen opens at noon and serves soup.",
    "bikes": "Park your bicycle behind the house.",
}


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as opened:
        opened.add([Document(id=name, text=text, metadata={"name": name}) for name, text in TEXTS.items()])
        yield opened


@pytest.fixture
def empty(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "empty.lir", encoder=encoder) as opened:
        yield opened


def found(index: LateInteractionIndex, query: str, **asked: Any) -> list[str]:
    return [hit.document_id for hit in index.search(query, **asked)]


def assert_typed(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field.startswith(field), caught.value
    assert field in str(caught.value)
    assert caught.value.remedy


# ---------------------------------------------------------------- queries


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": " \n\t\u2003"}, "query"),
        ({"query": "\x00"}, "query"),
        ({"query": None}, "query"),
        ({"query": b"leave"}, "query"),
        ({"query": ["leave"]}, "query"),
        ({"query": "x" * 100_001}, "query"),
        ({"k": 0}, "k"),
        ({"k": -1}, "k"),
        ({"k": 2.0}, "k"),
        ({"k": "3"}, "k"),
        ({"k": True}, "k"),
        ({"filter": []}, "filter"),
        ({"filter": "name"}, "filter"),
        ({"filter": {"name": None}}, "filter.name"),
        ({"filter": {"$where": "1"}}, "filter.$where"),
        ({"filter": {"name": {"$regex": ".*"}}}, "filter.name"),
        ({"filter": {"$or": []}}, "filter.$or"),
        ({"filter": {"name": math.nan}}, "filter.name"),
        ({"as_of": -1}, ""),
        ({"as_of": "yesterday"}, "as_of"),
        ({"as_of": 1.5}, "as_of"),
        ({"as_of": True}, "as_of"),
        ({"as_of": datetime(2026, 1, 1)}, "as_of"),
        ({"history": "what I said"}, "history"),
        ({"history": [("user", "hi")]}, "history[0]"),
        ({"tool_signals": [{"tool": "x"}]}, "tool_signals[0]"),
        ({"budget_ms": 0}, ""),
        ({"budget_ms": -5.0}, ""),
        ({"budget_ms": "fast"}, ""),
        ({"thread_id": ""}, ""),
        ({"thread_id": 7}, ""),
        ({"principal": "alice"}, ""),
        ({"principal": object()}, ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_question_names_its_field_and_the_remedy(index, asked, field):
    events = index.audit.size
    assert_typed(lambda: index.search(**{"query": "leave", **asked}), field)
    assert index.audit.size == events
    assert found(index, "leave")[0] == "leave"


@pytest.mark.parametrize(
    "query",
    [
        "?!…",
        "\u200b\u200d\ufeff",
        "the of and",
        "\ud800 leave \udfff",
        "leave\x00year",
        "🏖️ ŻÓŁĆ 休暇",
        "\u202eevael",
        "a" * 5000,
        "$or {'$ne': 1} ../../etc/passwd ; DROP TABLE passage; --",
    ],
    ids=ascii,
)
def test_an_odd_question_is_answered(index, query):
    result = index.search(query)
    assert len(result) == 3
    assert result.coverage.full
    assert [hit.rank for hit in result] == [1, 2, 3]
    assert all(math.isfinite(hit.score) for hit in result)
    result[0].explain()


@pytest.mark.parametrize("query", ["?!…", "\u200b\u200d", "\ud800 leave", "the of and", "🏖️ 休暇", "[MASK] [CLS]"])
def test_an_odd_question_is_answered_by_the_bundled_model(office_index, query):
    result = office_index.search(query, k=3, principal=Principal("a", groups=["group:staff"]))
    assert len(result) == 3
    assert all(math.isfinite(hit.score) for hit in result)
    assert len(result[0].explain()) >= 1


def test_ten_thousand_words_are_searched(index, office_index):
    words = " ".join(f"word{i % 700}" for i in range(9_998)) + " thirty leave"
    assert len(index.search(words, k=3)) == 3
    staff = Principal("a", groups=["group:staff"])
    assert len(office_index.search(words[-60_000:], k=3, principal=staff)) == 3


def test_more_hits_than_passages_gives_every_passage(index):
    for k in (3, 4, 10_000):
        assert sorted(found(index, "leave", k=k)) == sorted(TEXTS)


def test_an_unknown_filter_key_matches_nothing(index):
    result = index.search("leave", filter={"no such key": 1})
    assert len(result) == 0
    assert result.coverage.full
    assert found(index, "leave", filter={"no such key": {"$exists": False}}, k=1) == ["leave"]


@pytest.mark.parametrize(
    "filter",
    [
        {"name": {"$in": {"leave"}}},
        {"name": {"$in": frozenset({"leave"})}},
        {"name": {"$in": ("leave",)}},
        {"$and": ({"name": "leave"},)},
        {"name": "leave", "age": {"$exists": False}, "$not": {"age": {"$lt": 1e308}}},
        {"$or": [{"name": "leave"}, {"age": {"$gt": 2**80}}]},
    ],
    ids=repr,
)
def test_a_filter_that_is_accepted_is_also_recorded(index, filter):
    assert found(index, "leave", filter=filter) == ["leave"]


def test_the_deepest_filter_that_is_accepted_is_also_recorded(index):
    deep: dict[str, Any] = {"name": "leave"}
    for _ in range(MAX_DEPTH):
        deep = {"$and": [deep]}
    assert found(index, "leave", filter=deep) == ["leave"]


def test_an_empty_index_answers_with_nothing(empty):
    result = empty.search("anything at all", filter={"a": 1})
    assert (len(result), result.hits, result.coverage.full) == (0, (), True)
    assert empty.audit.get(result.event_id).kind == "retrieval"
    assert empty.search("anything", as_of=0).hits == ()
    assert empty.get("x") is None
    assert (empty.delete(["x"]), empty.erase(["x"])) == (0, 0)
    assert len(empty.candidates("anything").rows) == 0
    assert empty.verify() == []


def test_the_callers_objects_are_left_as_they_were(index):
    filter = {"$and": [{"name": {"$in": ["leave", "soup"]}}]}
    history, signals = [Turn("user", "leave")], [ToolSignal("clock", {"now": "noon"})]
    before = repr((filter, history, signals))
    index.search("leave", filter=filter, history=history, tool_signals=signals)
    assert repr((filter, history, signals)) == before


HUGE = 10**5000
"""More digits than Python turns into text."""


@pytest.mark.parametrize(
    ("output", "field"),
    [
        ({"n": HUGE}, "tool_signal.output.n"),
        ({"a": [1, {"b": (-HUGE,)}]}, "tool_signal.output.a[1].b[0]"),
        ({"a": {HUGE}}, "tool_signal.output.a[0]"),
        ({"a": {HUGE: 1}}, "tool_signal.output.a"),
        ({("a", HUGE): 1}, "tool_signal.output"),
    ],
    ids=["field", "nested", "set", "key", "tuple key"],
)
def test_a_number_of_a_tool_that_cannot_be_written_down_is_named(output, field):
    assert_typed(lambda: ToolSignal("clock", output), field)
    assert_typed(lambda: ToolSignal("clock", "noon", confidence=HUGE), "tool_signal.confidence")


class Made(Mapping[str, Any]):
    """Makes what it holds when it is asked for, and keeps none of it."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter("n")

    def __getitem__(self, key: str) -> Any:
        return Made(self.levels - 1) if self.levels else HUGE


def test_such_a_number_is_found_however_deep_it_lies_in_a_moment():
    assert_typed(lambda: ToolSignal("clock", Made(5)), "tool_signal.output.n.n.n")
    deep: Any = 1
    for _ in range(100_000):
        deep = {"n": deep}
    began = time.process_time()
    ToolSignal("clock", deep)
    assert time.process_time() - began < 5


def test_an_answer_that_holds_itself_or_a_large_number_is_taken(index):
    circle: dict[str, Any] = {"large": 2**4095}
    circle["itself"] = circle
    result = index.search("leave", thread_id="t", tool_signals=[ToolSignal("clock", {"large": 2**4095})])
    assert result.coverage.full
    assert ToolSignal("clock", circle).output is circle


# ---------------------------------------------------------------- documents


def test_bad_documents_are_named_and_the_others_are_in(empty):
    class Strange:
        id = "strange"

    bad = [
        Document(id="empty", text=""),
        Document(id="blank", text=" \n\n\t"),
        Document(id="acl", text="secret", acl=["group:hr"]),
        Document(id="x" * 3000, text="a long id"),
        Document(id="a\nb", text="a broken id"),
        Document(id="meta", text="nested", metadata={"a": object()}),
        Document(id="nan", text="not a number", metadata={"a": math.nan}),
        {"id": "mapping", "title": "no text"},
        {"id": "number", "text": 7},
        {"id": 10**5000, "text": "a number beyond what Python writes down"},
        {"id": "large", "text": "the same as a value", "metadata": {"a": 10**5000}},
        Strange(),
        None,
        "a bare string",
        b"bytes",
    ]
    good = [Document(id="before", text="The first."), *bad, Document(id="after", text="The last.")]
    report = empty.add(good)
    assert (report.added, report.updated, report.unchanged) == (2, 0, 0)
    assert len(report.failed) == len(bad)
    assert not report.ok
    for failure in report.failed:
        assert failure.id
        assert len(failure.reason) > 10
    assert {"empty", "blank", "acl", "meta", "nan", "mapping", "strange"} <= {f.id for f in report.failed}
    assert sorted(found(empty, "first last")) == ["after", "before"]
    assert empty.verify() == []


@pytest.mark.parametrize(
    "text",
    ["\u200b", "\ufeff\u200b", "\u00ad", ".", "🏖️", "\u0301", "\u202e", "\u2060" * 50, "a\u0300" * 500],
    ids=ascii,
)
def test_texts_without_words_are_stored_or_refused_with_a_reason(quick_path, office_index, text):
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=office_index.rooms.encoder) as index:
        report = index.add([Document(id="odd", text=text), Document(id="plain", text="A plain text.")])
        assert report.added + len(report.failed) == 2
        assert all(failure.id == "odd" and failure.reason for failure in report.failed)
        assert index.search("plain text", k=1)[0].document_id == "plain"
        assert index.verify() == []


def test_a_document_without_an_id_is_known_by_its_content(empty):
    texts = ["The same words.", "The same words.", "Other words."]
    report = empty.add([Document(text=text) for text in texts])
    assert (report.added, report.unchanged, report.failed) == (2, 1, ())
    ids = [hit.document_id for hit in empty.search("words")]
    assert len(set(ids)) == 2
    assert all(name.startswith("sha256:") for name in ids)
    assert empty.add([Document(text="Other words.")]).unchanged == 1


def test_of_equal_ids_in_one_call_the_last_is_current(empty):
    report = empty.add([Document(id="a", text=f"Edition {word}.") for word in ("one", "two", "two", "three")])
    assert (report.added, report.updated, report.unchanged) == (1, 2, 1)
    assert [hit.text for hit in empty.search("edition")] == ["Edition three."]
    assert [empty.get("a", version).text for version in (1, 2, 3)] == [
        "Edition one.",
        "Edition two.",
        "Edition three.",
    ]
    assert empty.get("a").info.version == 3


def test_five_megabytes_on_one_line_are_searchable_to_the_end(empty, encoder):
    words = [word * 6 for word in ("leave", "soup", "bicycle", "pension", "train", "badge")]
    line = " ".join(words[(i * i) % 6] for i in range(200_000))[: 5 << 20] + " the zebra crossed here"
    started = time.perf_counter()
    report = empty.add([Document(id="line", text=line)])
    elapsed_s = time.perf_counter() - started
    assert (report.added, report.failed) == (1, ())
    hit = empty.search("where did the zebra cross", k=1)[0]
    assert "zebra" in hit.text
    assert line[hit.start : hit.end] == hit.text
    assert empty.verify() == []
    assert elapsed_s < 240


def test_a_line_that_is_too_long_is_refused_by_name(quick_path, encoder):
    settings = Settings(ingest={"max_document_chars": 1000})
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, settings=settings) as index:
        report = index.add([Document(id="long", text="x" * 1001), Document(id="short", text="x" * 1000)])
        assert report.added == 1
        assert [(failure.id, "max_document_chars" in failure.reason) for failure in report.failed] == [
            ("long", True)
        ]


def test_half_surrogates_are_mended_not_lost(empty):
    assert empty.add([Document(id="s", text="Caf\ud83d\ude00 and \ud800 half.", title="\udc00 title")]).added == 1
    stored = empty.get("s")
    assert stored.text == "Caf😀 and \ufffd half."
    assert empty.search("half café")[0].text == stored.text
    failed = empty.add([Document(id="\ud800", text="A bad id.")]).failed
    assert len(failed) == 1
    assert "id" in failed[0].reason


@pytest.mark.parametrize("call", ["delete", "erase"])
@pytest.mark.parametrize("ids", ["leave", [""], [7], [None], b"leave", None, 7], ids=repr)
def test_ids_that_are_none_are_refused(index, call, ids):
    assert_typed(lambda: getattr(index, call)(ids), "ids")
    assert len(index.search("leave", k=5)) == 3


@pytest.mark.parametrize("call", ["delete", "erase"])
def test_ids_may_come_from_an_iterator(index, call):
    assert getattr(index, call)(iter(["leave", "unknown"])) == 1
    assert sorted(found(index, "leave")) == ["bikes", "soup"]


# ---------------------------------------------------------------- directories


def everything(path: Path) -> dict[str, bytes | None]:
    return {
        str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(path.rglob("*"))
        if not entry.name.endswith(("lock", "-wal", "-shm"))
    }


def assert_refused(path: Path, kind: type[LirError], encoder: HashedEncoder) -> LirError:
    before = everything(path) if path.is_dir() else {}
    with pytest.raises(kind) as caught:
        LateInteractionIndex.open(path, encoder=encoder)
    assert caught.value.remedy, caught.value
    assert (everything(path) if path.is_dir() else {}) == before
    return caught.value


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path, encoder):
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    assert "letter.txt" in str(assert_refused(tmp_path, InputError, encoder))
    assert_refused(tmp_path / "letter.txt", InputError, encoder)


def test_a_directory_that_cannot_be_made(tmp_path, encoder):
    (tmp_path / "file").write_text("x")
    with pytest.raises((StoreError, InputError)) as caught:
        LateInteractionIndex.open(tmp_path / "file" / "i.lir", encoder=encoder)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["a\0b", os.fsdecode(b"caf\xe9"), "\ud800"], ids=ascii)
def test_a_name_that_no_store_takes_is_refused_before_anything_is_made(tmp_path, encoder, name):
    with pytest.raises(InputError) as caught:
        LateInteractionIndex.open(tmp_path / name, encoder=encoder)
    assert caught.value.field == "path"
    str(caught.value).encode()
    assert list(tmp_path.iterdir()) == []


def test_no_index_and_none_to_be_made(tmp_path, encoder):
    with pytest.raises(InputError, match="path"):
        LateInteractionIndex.open(tmp_path / "i.lir", create=False, encoder=encoder)
    assert not (tmp_path / "i.lir").exists()


def made(path: Path) -> Path:
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.add([Document(id=name, text=text) for name, text in TEXTS.items()])
    return path


@pytest.mark.parametrize("file", ["catalog.sqlite", "audit.sqlite", "tokens.lmdb/*", "lexical.lmdb/*"])
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, encoder, file, damage):
    path = made(tmp_path / "i.lir")
    (target,) = [entry for entry in path.glob(file) if "lock" not in entry.name]
    content = target.read_bytes()
    target.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"GIF89a" * 999)
    assert_refused(path, IntegrityError, encoder)
    target.write_bytes(content)
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        assert len(index.search("leave")) == 3
        assert index.verify() == []


def test_an_index_of_a_newer_version_is_refused(tmp_path, encoder):
    path = made(tmp_path / "i.lir")
    with sqlite3.connect(path / "catalog.sqlite") as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    assert "newer" in str(assert_refused(path, IntegrityError, encoder))


def test_an_index_without_its_catalog_is_refused(tmp_path, encoder):
    path = made(tmp_path / "i.lir")
    for file in path.glob("catalog.sqlite*"):
        file.unlink()
    assert_refused(path, IntegrityError, encoder)


def test_an_index_without_its_audit_log_is_refused(tmp_path, encoder):
    path = made(tmp_path / "i.lir")
    for file in path.glob("audit.sqlite*"):
        file.unlink()
    assert "audit" in str(assert_refused(path, IntegrityError, encoder))


def test_the_audit_log_of_another_index_is_refused(tmp_path, encoder):
    path, other = made(tmp_path / "i.lir"), made(tmp_path / "other.lir")
    (path / "audit.sqlite").write_bytes((other / "audit.sqlite").read_bytes())
    assert "audit" in str(assert_refused(path, IntegrityError, encoder))


@pytest.mark.parametrize("lost", ["tokens.lmdb", "lexical.lmdb", "chroma"])
def test_a_derived_store_that_is_gone_is_made_again_with_its_history(tmp_path, encoder, lost):
    def answers(index: LateInteractionIndex) -> list[Any]:
        return [[(hit.passage_id, hit.score) for hit in index.search("leave", as_of=time)] for time in (1, 2)]

    path = made(tmp_path / "i.lir")
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        index.add([Document(id="leave", text="Everybody has forty days of leave a year.")])
        before = answers(index)
        assert before[0] != before[1]
    shutil.rmtree(path / lost)
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        assert answers(index) == before
        assert index.verify() == []


def test_an_index_that_could_not_be_opened_can_be_made_otherwise(tmp_path, encoder):
    """A first opening that fails (a wrong encoder) fixes nothing for the second."""
    path = tmp_path / "i.lir"
    with pytest.raises(LirError):
        LateInteractionIndex.open(path, access="acl", encoder=tmp_path / "no model here")
    with LateInteractionIndex.open(path, access="open", encoder=encoder) as index:
        assert index.stats()["access"] == "open"


def test_the_time_of_an_index_goes_back_to_its_beginning(index):
    assert found(index, "leave", as_of=0) == []
    assert found(index, "leave", as_of=datetime.now(UTC) - timedelta(days=9999)) == []
    assert sorted(found(index, "leave", as_of=datetime.now(UTC) + timedelta(days=1))) == sorted(TEXTS)


def test_a_hit_that_is_made_up_is_not_explained(index):
    hit = index.search("leave", k=1)[0]
    assert len(hit.explain()) == 1
    for forged in (
        dataclasses.replace(hit, row=-1),
        dataclasses.replace(hit, row=10_000),
        dataclasses.replace(hit, row=2**70),
        dataclasses.replace(hit, row=-(2**70)),
        dataclasses.replace(hit, row=str(hit.row)),
        dataclasses.replace(hit, row=index.search("soup", k=1)[0].row),
    ):
        with pytest.raises(InputError) as caught:
            index.explain(forged)
        assert caught.value.field == "hit"


def test_settings_bound_what_a_search_may_cost(quick_path, encoder):
    settings = Settings(search=SearchSettings(max_query_chars=20))
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder, settings=settings) as index:
        assert_typed(lambda: index.search("x" * 21), "query")
        assert len(index.search("x" * 20)) == 0


def test_a_refused_document_list_is_an_error_not_a_silence(index):
    for wrong in (None, 7):
        with pytest.raises((InputError, TypeError)):
            index.add(wrong)
    assert index.add([]).added == 0


def test_search_without_a_principal_is_refused_and_recorded(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "acl.lir", access="acl", encoder=encoder) as index:
        index.add([Document(id="a", text="A secret.", acl=["group:hr"])])
        events = index.audit.size
        with pytest.raises(AccessDenied):
            index.search("secret")
        (event,) = index.audit.events(kind="decision")
        assert index.audit.size == events + 1
        assert event.payload["decision"]["allowed"] is False
        assert np.all([hit.document_id == "a" for hit in index.search("secret", principal=Principal("x"))])


@pytest.mark.parametrize(("field", "given"), [("tool", {"tool": 5}), ("error", {"error": ValueError("no")})])
def test_a_signal_names_what_is_no_text(field, given):
    with pytest.raises(InputError, match="is a ") as raised:
        ToolSignal(**{"tool": "clock", "output": "x", **given})
    assert raised.value.field == f"tool_signal.{field}"


@pytest.mark.parametrize("text", [5, None, b"leave", ["leave"]], ids=repr)
def test_a_turn_that_is_no_text_is_named(text):
    with pytest.raises(InputError) as raised:
        Turn("user", text)
    assert raised.value.field == "turn.text"
