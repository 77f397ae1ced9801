"""The catalog's life of a document: staged, committed, replaced, retired, looked up."""

from __future__ import annotations

import dataclasses
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from lir_agents.errors import InputError, StoreError
from lir_agents.stores import schema
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.records import parse_passage_id, passage_id
from tests.catalog_documents import document, sha256


@pytest.fixture
def catalog(tmp_path: Path):
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


def add(catalog: Catalog, *documents):
    """Stages and commits; returns the rows that were retired."""
    return catalog.commit(catalog.stage(documents))


def live_rows(catalog: Catalog) -> list[int]:
    return np.flatnonzero(catalog.live()).tolist()


# ---------------------------------------------------------------- staging and committing


def test_a_new_catalog_is_empty(catalog):
    assert catalog.epoch == 0
    assert not catalog.live().any()
    assert catalog.generation() is None
    assert catalog.document("a") is None
    assert catalog.versions("a") == []
    assert catalog.current(["a"]) == {}
    assert catalog.passages([]) == []


def test_what_is_staged_is_invisible_until_it_is_committed(catalog):
    given = document("a", ["one", "two"], access="staff", metadata={"k": 1})
    (rows,) = catalog.stage([given])
    assert catalog.pending().tolist() == rows.tolist()
    assert not catalog.live().any()
    assert catalog.current(["a"]) == {}
    assert catalog.document("a") is None
    assert catalog.document("a", 1) is None
    assert catalog.reusable([given.passages[0].encoding_sha256]) == {}
    assert not catalog.match({}).any()
    # … though derived stores may already ask who will be able to read it
    assert set(catalog.access_class_column()[rows]) == set(catalog.access_classes())

    assert catalog.commit(rows).tolist() == []
    assert catalog.pending().tolist() == []
    assert live_rows(catalog) == rows.tolist()
    assert catalog.epoch == 1
    assert catalog.current(["a", "b"]) == {"a": (given.content_sha256, given.access_key)}


def test_passages_come_in_the_order_asked_for_with_all_they_carry(catalog):
    add(catalog, document("a", ["one", "two"], title="T", metadata={"k": [1, 2]}), document("b", "three"))
    first, second, third = live_rows(catalog)
    got = catalog.passages(np.array([third, first, second, 10**9, first]))
    assert [p.text for p in got] == ["three", "one", "two", "one"]
    passage = got[2]
    assert (passage.passage_id, passage.document_id, passage.version, passage.ordinal) == ("a#1.1", "a", 1, 1)
    assert (passage.start, passage.end, passage.title, passage.source_uri) == (4, 7, "T", "test:a")
    assert passage.metadata == {"k": [1, 2]}
    assert catalog.access_classes()[passage.access_class] == "null"
    assert catalog.document("a").text[passage.start : passage.end] == passage.text
    assert catalog.rows_by_passage_id(["a#1.1", "a#1.9", "a#2.0", "nonsense"]) == {"a#1.1": second}
    assert {k: v.tolist() for k, v in catalog.rows_of(["a", "zzz"]).items()} == {"a": [first, second]}


def test_a_changed_document_retires_its_predecessor_and_keeps_it(catalog):
    add(catalog, document("a", "old"))
    old = live_rows(catalog)
    assert add(catalog, document("a", "new")).tolist() == old
    assert [p.text for p in catalog.passages(live_rows(catalog))] == ["new"]
    assert catalog.document("a").version == 2
    assert catalog.document("a", 1).text == "old"
    first, second = catalog.versions("a")
    assert (first.version, first.live, second.version, second.live) == (1, False, 2, True)
    assert first.retired_epoch == second.added_epoch == 2
    assert first.retired_at == second.added_at
    assert catalog.passages(old)[0].text == "old"


def test_the_same_id_twice_in_one_call_makes_two_versions_and_the_last_is_current(catalog):
    rows = catalog.stage([document("a", "first"), document("a", "second")])
    assert catalog.commit(rows).tolist() == rows[0].tolist()
    assert catalog.document("a").text == "second"
    assert [v.version for v in catalog.versions("a")] == [1, 2]
    assert [(c.kind, c.version, c.previous) for c in catalog.changes(0)] == [("added", 2, None)]


def test_the_highest_version_wins_in_whatever_order_commits_come(catalog):
    (first,), (second,) = catalog.stage([document("a", "first")]), catalog.stage([document("a", "second")])
    assert catalog.commit(second).tolist() == []
    assert catalog.commit(first).tolist() == first.tolist()
    assert catalog.document("a").text == "second"


def test_committing_again_changes_nothing(catalog):
    rows = catalog.stage([document("a")])
    catalog.commit(rows)
    epoch = catalog.epoch
    assert catalog.commit(rows).tolist() == []
    assert catalog.epoch == epoch


def test_discarded_rows_cannot_be_committed_and_are_never_used_again(catalog):
    (gone,) = catalog.stage([document("a", ["x", "y"], access="only-here", metadata={"only": 1})])
    assert catalog.discard_pending().tolist() == gone.tolist()
    assert catalog.access_classes() == {}
    with pytest.raises(StoreError, match="gone") as caught:
        catalog.commit(gone)
    assert caught.value.retryable
    (fresh,) = catalog.stage([document("a", ["x", "y"])])
    assert fresh.min() > gone.max()


def test_discarding_some_keeps_the_others(catalog):
    keep, drop = catalog.stage([document("a"), document("b")])
    assert catalog.discard_pending(drop).tolist() == drop.tolist()
    assert catalog.pending().tolist() == keep.tolist()


def test_retiring_hides_and_keeps_history_and_a_later_add_goes_on_counting(catalog):
    add(catalog, document("a", "v1"), document("b"))
    rows = catalog.rows_of(["a"])["a"]
    assert catalog.retire(["a", "unknown"]).tolist() == rows.tolist()
    assert catalog.document("a") is None
    assert catalog.document("a", 1).text == "v1"
    assert catalog.current(["a", "b"]).keys() == {"b"}
    epoch = catalog.epoch
    assert catalog.retire(["a"]).tolist() == []
    assert catalog.epoch == epoch
    add(catalog, document("a", "v2"))
    assert catalog.document("a").version == 2


def test_commit_and_retire_share_one_epoch(catalog):
    add(catalog, document("a"), document("b"))
    gone = catalog.rows_of(["b"])["b"]
    rows = catalog.stage([document("c")])
    assert catalog.commit(rows, retire=["b", "c"]).tolist() == gone.tolist()
    assert catalog.epoch == 2
    assert catalog.current(["a", "b", "c"]).keys() == {"a", "c"}


def test_equal_text_is_encoded_once(catalog):
    add(catalog, document("a", ["shared", "own"]))
    row = live_rows(catalog)[0]
    assert catalog.reusable([sha256("", "shared"), sha256("", "never seen")]) == {sha256("", "shared"): row}
    catalog.retire(["a"])
    assert catalog.reusable([sha256("", "shared")]) == {sha256("", "shared"): row}


def test_what_cannot_be_stored_is_refused_by_name_and_nothing_is_written(catalog):
    good = document("good")
    broken = document("bad", "abc")
    wrong = dataclasses.replace(broken.passages[0], text="abd")
    for bad, field in [
        (dataclasses.replace(broken, passages=[]), "document 'bad'"),
        (dataclasses.replace(broken, passages=[wrong]), "document 'bad': passages[0]"),
        (dataclasses.replace(broken, metadata={"n": float("nan")}), "document 'bad': metadata.n"),
        (dataclasses.replace(broken, metadata={"n": 2**63}), "document 'bad': metadata.n"),
        (dataclasses.replace(broken, metadata={"n": None}), "document 'bad': metadata.n"),
        (dataclasses.replace(broken, metadata={"n": [[1]]}), "document 'bad': metadata.n"),
        (dataclasses.replace(broken, metadata={"$n": 1}), "document 'bad': metadata"),
        (document("bad", "\ud800"), "document 'bad': text"),
        (dataclasses.replace(broken, title="\ud800"), "stage"),
    ]:
        with pytest.raises(InputError) as caught:
            catalog.stage([good, bad])
        assert caught.value.field == field
    assert catalog.pending().tolist() == []


def test_odd_but_lawful_strings_survive(catalog):
    odd = "nul \x00 quote ' \" # 1.1 é 😀 \u202e"
    add(catalog, document(odd, odd, title=odd, access=odd, metadata={odd: odd}))
    (passage,) = catalog.passages(live_rows(catalog))
    assert (passage.document_id, passage.text, passage.title, passage.metadata) == (odd, odd, odd, {odd: odd})
    assert catalog.standing(odd).access_key == odd
    assert catalog.rows_by_passage_id([passage.passage_id]) == {passage.passage_id: passage.row}
    assert catalog.match({odd: odd}).sum() == 1


def test_passage_ids_are_taken_apart_as_they_were_joined():
    for name in ("a", "a#1.1", "#", "a b/ü", "1.1"):
        assert parse_passage_id(passage_id(name, 12, 0)) == (name, 12, 0)
    for nonsense in ("", "a", "a#1", "#1.1", "a#1.01", "a#-1.2", "a#x.1", "a#1.1.1", f"a#{10**30}.1", "a#1.²"):
        assert parse_passage_id(nonsense) is None


# ---------------------------------------------------------------- columns and snapshots


def test_columns_tell_class_and_document_of_every_row(catalog):
    add(catalog, document("a", ["1", "2"], access="x"), document("b", access="y"), document("c", access="x"))
    by_id = {p.document_id: p for p in catalog.passages(live_rows(catalog))}
    classes, documents = catalog.access_class_column(), catalog.document_column()
    assert len(classes) == len(documents) == len(catalog.live())
    assert classes[0] == documents[0] == -1
    assert {catalog.access_classes()[c] for c in classes[1:]} == {"x", "y"}
    assert by_id["a"].access_class == by_id["c"].access_class != by_id["b"].access_class
    assert len(set(documents[1:].tolist())) == 3
    with pytest.raises(ValueError, match="read-only"):
        catalog.live()[0] = True


def test_the_newest_class_rules_over_old_versions(catalog):
    add(catalog, document("a", "old", access="everyone"), document("b", access="everyone"))
    add(catalog, document("a", "new", access="board"))
    state = catalog.snapshot()
    keys = [(state.access_keys[int(c)]) for c in state.newest_access_class[1:]]
    assert keys == ["board", "everyone", "board"]
    assert [state.access_keys[int(c)] for c in state.access_class[1:]] == ["everyone", "everyone", "board"]


def test_a_snapshot_does_not_move(catalog):
    add(catalog, document("a", "1", metadata={"k": 1}))
    before = catalog.snapshot()
    add(catalog, document("a", "2", metadata={"k": 2}), document("b", metadata={"k": 1}))
    assert np.flatnonzero(before.live).tolist() == [1]
    assert catalog.match({"k": 1}, snapshot=before).tolist() == [False, True]
    assert (catalog.match({"k": 1}) & catalog.live()).tolist() == [False, False, False, True]


def test_live_at_goes_back_in_time_by_epoch_and_by_clock(catalog):
    marks = [datetime.now(UTC)]
    for step in ({"a": "1"}, {"a": "2", "b": "1"}, {}):
        if step:
            add(catalog, *(document(k, v) for k, v in step.items()))
        else:
            catalog.retire(["a"])
        marks.append(datetime.now(UTC))
    told = [{p.document_id: p.text for p in catalog.passages(np.flatnonzero(catalog.live_at(e)))} for e in range(4)]
    assert told == [{}, {"a": "1"}, {"a": "2", "b": "1"}, {"b": "1"}]
    assert [catalog.epoch_at(mark) for mark in marks] == [0, 1, 2, 3]
    assert catalog.epoch_at(datetime(1999, 1, 1, tzinfo=UTC)) == 0
    assert catalog.epoch_at(datetime.now(UTC) + timedelta(days=9)) == 3
    for epoch in (-1, 4):
        with pytest.raises(InputError, match="outside"):
            catalog.live_at(epoch)
    with pytest.raises(InputError, match="time zone"):
        catalog.epoch_at(datetime.now())


def test_time_never_runs_backwards(catalog, monkeypatch):
    add(catalog, document("a", "1"))
    monkeypatch.setattr("lir_agents.stores.catalog_writes.now_us", lambda: 1)
    add(catalog, document("a", "2"))
    first, second = catalog.versions("a")
    assert second.added_at > first.added_at
    assert catalog.epoch_at(second.added_at) == 2
    assert schema.now_us() > 1


def test_changes_tell_what_each_epoch_did(catalog):
    add(catalog, document("a", "1"), document("b"))
    add(catalog, document("a", "2"))
    catalog.retire(["b"])
    told = [(c.epoch, c.kind, c.document_id, c.version, c.previous) for c in catalog.changes(0)]
    assert told == [
        (1, "added", "a", 1, None),
        (1, "added", "b", 1, None),
        (2, "updated", "a", 2, 1),
        (3, "retired", "b", None, 1),
    ]
    assert [c.epoch for c in catalog.changes(2)] == [3]
    assert all(c.at.tzinfo is UTC for c in catalog.changes(0))


def test_counts(catalog):
    add(catalog, document("a", ["1", "2"]), document("b"))
    add(catalog, document("a", "3"))
    catalog.stage([document("c", ["1", "2", "3"])])
    counts = catalog.counts()
    assert dataclasses.astuple(counts) == (2, 3, 4, 2, 3)


# ---------------------------------------------------------------- the rest


def test_settings_and_generations_are_remembered(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with Catalog.open(path) as catalog:
        catalog.set_meta("access", "acl")
        catalog.set_meta("access", "open")
        first = catalog.add_generation(fingerprint="f1", name="m", dense_dim=384, token_dim=128)
        assert catalog.add_generation(fingerprint="f1", name="m", dense_dim=384, token_dim=128) == first
    with Catalog.open(path) as catalog:
        assert catalog.get_meta("access") == "open"
        assert catalog.get_meta("other") is None
        assert catalog.generation() == first
        second = catalog.add_generation(fingerprint="f2", name="n", dense_dim=1, token_dim=2)
        assert catalog.generation() == second != first


def test_a_reader_beside_the_owner_sees_each_commit_and_cannot_write(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with Catalog.open(path) as owner, Catalog.open(path, read_only=True) as reader:
        assert not reader.live().any()
        for step in range(3):
            add(owner, document("a", f"text {step}", metadata={"n": step}))
            assert [p.text for p in reader.passages(np.flatnonzero(reader.live()))] == [f"text {step}"]
            assert (reader.match({"n": step}) & reader.live()).sum() == 1
        owner.erase(["a"])
        assert not reader.live().any()
        with pytest.raises(StoreError, match="read-only"):
            reader.stage([document("b")])


def test_reads_do_not_wait_for_a_write(catalog):
    add(catalog, document("a", "before"))
    with catalog._database.write("hold") as connection:
        connection.execute("UPDATE version SET title = 'x'")
        done = threading.Event()

        def read():
            assert catalog.document("a").title == ""
            catalog.live_at(1)
            done.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert done.wait(5)
        thread.join()


def test_threads_write_and_read_together(catalog):
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for step in range(8):
                add(catalog, document(name, [f"{name} {step} {i}" for i in range(3)]))
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            for _ in range(60):
                state = catalog.snapshot()
                texts = [p.text.rsplit(" ", 1)[0] for p in catalog.passages(np.flatnonzero(state.live))]
                for text in set(texts):  # every document is there wholly, in one version
                    assert texts.count(text) == 3
                assert len({text.split()[0] for text in texts}) == len(set(texts))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"d{i}",)) for i in range(4)]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert catalog.counts().versions == 32
    assert catalog.check() == []


def test_a_closed_catalog_says_so(tmp_path):
    catalog = Catalog.open(tmp_path / "catalog.sqlite")
    catalog.close()
    catalog.close()
    for use in (lambda: catalog.document("a"), lambda: catalog.stage([document("a")]), catalog.compact):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_forked_child_is_refused(catalog):
    child = os.fork()
    if child == 0:  # pragma: no cover - the child reports by its exit status
        try:
            catalog.document("a")
        except StoreError as error:
            os._exit(0 if "fork" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    add(catalog, document("a"))


def test_many_reads_leave_no_file_open(catalog, tmp_path):
    add(catalog, document("a"))

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def burst() -> None:
        threads = [threading.Thread(target=lambda: [catalog.document("a") for _ in range(5)]) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    burst()
    before = open_files()
    for _ in range(5):
        burst()
    assert open_files() <= before + 16  # a bounded pool, however many threads have come and gone
