"""What every lexical store must do, run on LMDB on real disk."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from lir_agents.errors import ConfigError, InputError, IntegrityError, StoreError
from lir_agents.stores import analysis
from lir_agents.stores.base import LexicalStore
from lir_agents.stores.bm25 import Bm25, top
from lir_agents.stores.lexical import LmdbLexical
from lir_agents.stores.postings import MAX_ROW

TEXTS = {
    1: "The quick brown foxes were jumping over lazy dogs.",
    2: "A fox is not a dog; foxes hunt by night.",
    5: "assert.deepEqual was deprecated in v19.9.0 of the runtime.",
    9: "東京タワーは高い",
}


def add(store: LexicalStore, texts: dict[int, str]) -> None:
    store.add(np.array(list(texts), np.int64), list(texts.values()))


def found(store: LmdbLexical, query: str, allowed: np.ndarray | None = None) -> list[int]:
    rows, _ = top(store.scores_for_text(query, np.ones(16, bool) if allowed is None else allowed), 10)
    return rows.tolist()


@pytest.fixture
def store(tmp_path: Path):
    opened = LmdbLexical.open(tmp_path / "lexical")
    add(opened, TEXTS)
    yield opened
    opened.close()


def file_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("fox", [2, 1]),
        ("FOXES jumped", [1, 2]),
        ("what is deprecated in 19.9.0?", [5]),
        ("v19.9.0", [5]),
        ("deepEqual", [5]),
        ("assert.deepEqual()", [5]),
        ("タワー", [9]),
        ("東", [9]),
        ("the of and", []),
        ("", []),
        ("durian", []),
    ],
)
def test_finds(store, query, expected):
    assert found(store, query) == expected


def test_a_row_outside_the_scope_is_not_found_and_does_not_count(store):
    allowed = np.array([False, True])
    assert found(store, "fox", allowed) == [1]
    alone = LmdbLexical.open(store._file._path.parent / "alone")
    add(alone, {1: TEXTS[1]})
    assert (
        store.scores_for_text("fox dog", allowed).tobytes() == alone.scores_for_text("fox dog", allowed).tobytes()
    )
    alone.close()


def test_an_empty_scope_and_an_empty_store_score_nothing(store, tmp_path):
    assert store.scores([("fox", 1.0)], np.zeros(0, bool)).tolist() == []
    assert store.scores([("fox", 1.0)], np.zeros(3, bool)).tolist() == [0, 0, 0]
    empty = LmdbLexical.open(tmp_path / "empty")
    assert empty.scores([("fox", 1.0)], np.ones(3, bool)).tolist() == [0, 0, 0]
    assert empty.rows().tolist() == []
    assert empty.idf(["fox"], np.ones(3, bool)) == pytest.approx([np.log(2)])
    empty.close()


def test_idf_is_of_the_scope(store):
    both, one = np.array([0, 1, 1], bool), np.array([0, 1], bool)
    assert store.idf(["fox", "lazi", "durian"], both) == pytest.approx(np.log([1.2, 2.0, 6.0]))
    assert store.idf(["lazi"], one) == pytest.approx(np.log([4 / 3]))


def test_terms_no_text_can_hold_match_nothing(store):
    terms = [("", 1.0), ("fox\0\0\0\0\0", 1.0), ("x" * 10_000, 1.0), ("\ud800", 1.0)]
    assert not store.scores(terms, np.ones(16, bool)).any()


# ---------------------------------------------------------------- changes


def test_adding_a_row_again_replaces_it(store):
    add(store, {1: "a mango"})
    assert found(store, "fox") == [2]
    assert found(store, "mango") == [1]
    assert store.rows().tolist() == [1, 2, 5, 9]


def test_of_a_row_that_comes_twice_the_last_stays(store):
    store.add(np.array([3, 3]), ["mango", "lemon"])
    assert (found(store, "mango"), found(store, "lemon")) == ([], [3])


def test_deleted_rows_leave_no_trace_in_scores(store, tmp_path):
    everything = np.ones(16, bool)
    store.delete(np.array([1, 9, 14, 10**12]))
    never = LmdbLexical.open(tmp_path / "never")
    add(never, {row: TEXTS[row] for row in (2, 5)})
    for query in ("fox dog lazy", "東京", "deprecated"):
        assert (
            store.scores_for_text(query, everything).tobytes() == never.scores_for_text(query, everything).tobytes()
        )
    assert store.rows().tolist() == [2, 5]
    never.close()


def test_compaction_leaves_no_byte_of_what_was_deleted(tmp_path):
    path = tmp_path / "lexical"
    store = LmdbLexical.open(path)
    # Enough around the secret that its pages are split, freed and used again.
    add(store, {row: f"common word{row} text number{row % 7}" for row in range(400)})
    add(store, {row: f"xyzzysecret{row} common" for row in range(400, 600)})
    assert b"xyzzysecret" in file_bytes(path)
    store.delete(np.arange(400, 600))
    store.compact()
    assert b"xyzzysecret" not in file_bytes(path)
    assert found(store, "word17", np.ones(600, bool)) == [17]
    add(store, {700: "still writable"})
    store.close()
    assert b"xyzzysecret" not in file_bytes(path)


def test_a_store_reopens_as_it_was(store):
    path = store._file._path
    before = store.scores_for_text("fox night 東京", np.ones(16, bool))
    store.close()
    again = LmdbLexical.open(path)
    assert again.scores_for_text("fox night 東京", np.ones(16, bool)).tobytes() == before.tobytes()
    again.close()


def test_statistics_are_right_after_compaction_and_an_unread_change(store):
    """A snapshot of the lengths must never be taken for another's, however the file counts its transactions."""
    everything = np.ones(16, bool)
    for _ in range(12):
        store.scores_for_text("fox", everything)
        add(store, {3: "fox fox fox fox"})
        store.compact()
        assert 3 in found(store, "fox")
        store.delete(np.array([3]))
        store.compact()
        assert found(store, "fox") == [2, 1]


def test_the_map_grows_with_the_file(tmp_path):
    store = LmdbLexical.open(tmp_path / "lexical", map_bytes=1 << 20)
    words = [" ".join(f"w{row}x{i}" for i in range(60)) for row in range(500)]
    store.add(np.arange(500), words)
    assert sum(file.stat().st_size for file in (tmp_path / "lexical").iterdir()) > 1 << 20
    assert found(store, "w333x7", np.ones(500, bool)) == [333]
    store.close()


def test_a_very_long_line_is_indexed_in_bounded_time(store):
    line = "A" * 5_000_000 + " needle " + "ab1 " * 300_000
    add(store, {3: line})
    assert found(store, "needle") == [3]
    assert found(store, "a" * 5_000_000) == [3]
    assert store.verify() == []


# ---------------------------------------------------------------- threads and processes


def test_readers_see_whole_changes_only(store):
    """Row 3 and row 4 come and go together, so their scores are equal in every snapshot."""
    everything, stop, torn = np.ones(16, bool), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            scores = store.scores([("mango", 1.0)], everything)
            expected = np.log(1 + (6 - 2 + 0.5) / 2.5)  # of six passages two hold it, or none does
            if scores[3] != scores[4] or (scores[3] and not 0.3 * expected < scores[3] < expected):
                torn.append(scores)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round_ in range(25):
        add(store, {3: "mango", 4: "mango"})
        store.delete(np.array([3, 4]))
        if round_ % 10 == 5:
            store.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_a_killed_writer_leaves_whole_transactions(tmp_path):
    path = tmp_path / "lexical"
    code = f"""
        import numpy as np
        from pathlib import Path
        from lir_agents.stores.lexical import LmdbLexical
        store = LmdbLexical.open(Path({str(path)!r}))
        for batch in range(10_000):
            rows = np.arange(batch * 10, batch * 10 + 10)
            store.add(rows, [f"common only{{row}} batch{{batch}}" for row in rows])
            print(batch, flush=True)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    while acknowledged < 5:
        acknowledged = int(writer.stdout.readline())
    writer.kill()
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()
    store = LmdbLexical.open(path)
    rows = store.rows()
    assert len(rows) % 10 == 0
    assert len(rows) >= 10 * (acknowledged + 1)
    assert store.verify() == []
    assert found(store, f"batch{acknowledged}", np.ones(len(rows), bool)) == list(
        range(acknowledged * 10, acknowledged * 10 + 10)
    )
    store.close()


def test_a_second_process_reads_what_the_owner_commits(store):
    path = store._file._path
    code = f"""
        import numpy as np
        from pathlib import Path
        from lir_agents.stores.lexical import LmdbLexical
        from lir_agents.errors import StoreError
        store = LmdbLexical.open(Path({str(path)!r}), read_only=True)
        for _ in range(2):
            print(np.flatnonzero(store.scores_for_text("mango fox", np.ones(16, bool))).tolist(), flush=True)
            input()
        try:
            store.delete(np.array([1]))
        except StoreError as error:
            print(error.operation)
    """
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdin is not None
    assert reader.stdout.readline() == "[1, 2]\n"
    add(store, {3: "mango"})
    store.delete(np.array([1]))
    reader.stdin.write("\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "[2, 3]\n"
    add(store, {1: "back"})
    assert reader.communicate("\n")[0] == "delete\n"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("rows", "texts", "field"),
    [([1, 2], ["a"], "texts"), ([-1], ["a"], "rows"), ([MAX_ROW + 1], ["a"], "rows")],
)
def test_refuses_bad_rows(store, rows, texts, field):
    with pytest.raises(InputError) as refused:
        store.add(np.array(rows, np.int64), texts)
    assert refused.value.field == field
    assert store.rows().tolist() == [1, 2, 5, 9]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_refuses_bad_weights(store, weight):
    with pytest.raises(InputError, match="terms"):
        store.scores([("fox", weight)], np.ones(3, bool))


@pytest.mark.parametrize("allowed", [np.ones(3), np.ones((2, 2), bool), np.array([1, 2])])
def test_refuses_what_is_not_a_bitmap(store, allowed):
    with pytest.raises(InputError, match="allowed"):
        store.scores([("fox", 1.0)], allowed)
    with pytest.raises(InputError, match="allowed"):
        store.idf(["fox"], allowed)


@pytest.mark.parametrize("bad", [{"k1": -0.1}, {"k1": float("nan")}, {"b": 1.1}, {"b": float("nan")}])
def test_refuses_bad_constants(bad):
    with pytest.raises(ConfigError):
        Bm25(**bad)


def test_top_refuses_to_give_nothing():
    with pytest.raises(InputError, match="k"):
        top(np.ones(3, np.float32), 0)


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for act in (store.rows, store.compact, lambda: add(store, {3: "x"}), lambda: found(store, "fox")):
        with pytest.raises(StoreError, match="closed") as refused:
            act()
        assert refused.value.store == "lexical"


def test_an_index_of_another_analyser_is_refused_and_left_alone(store, monkeypatch):
    path = store._file._path
    store.close()
    before = file_bytes(path)
    monkeypatch.setattr(analysis, "STOP_WORDS", frozenset({"fox"}))
    with pytest.raises(IntegrityError, match="rebuild"):
        LmdbLexical.open(path)
    assert file_bytes(path) == before


def test_a_truncated_file_is_refused(store):
    path = store._file._path
    add(store, {row: f"word{row} " * 20 for row in range(100)})
    store.close()
    file = next(path.glob("*.mdb"))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(IntegrityError):
        LmdbLexical.open(path)


def test_verify_names_the_rows_whose_entries_disagree(store):
    def lose(txn, databases) -> None:
        for key, _ in list(txn.cursor(databases[b"postings"])):
            if key.startswith(b"lazi"):
                txn.delete(key, db=databases[b"postings"])

    store._file.write("test", lose)
    assert store.verify() == [1]
    add(store, {1: TEXTS[1]})
    assert store.verify() == []


def test_a_damaged_entry_is_an_integrity_error(store):
    def damage(txn, databases) -> None:
        for key, value in list(txn.cursor(databases[b"postings"])):
            txn.put(key, value[:-1], db=databases[b"postings"])

    store._file.write("test", damage)
    for act in (lambda: found(store, "fox"), store.verify, store.compact):
        with pytest.raises(IntegrityError):
            act()
