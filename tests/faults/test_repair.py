"""Damage to every store of an index: found, named, and mended where it can be derived; said plainly where not."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langgraph.store.memory import InMemoryStore

from lir_agents import Document, IndexLocked, InputError, IntegrityError, LateInteractionIndex, StoreError
from lir_agents.audit import payloads
from lir_agents.codes import TokenCodec
from lir_agents.repairing import RepairReport, inspect, repair
from lir_agents.stores.lexical import LmdbLexical
from lir_agents.stores.tokens import LmdbTokens
from lir_agents.stores.vectors import ChromaVectors
from tests.hashed_encoder import HashedEncoder

QUERIES = ("rule about leave and pay", "travel by train", "section of rule 17", "edition two")
PAGE_BYTES = 4096


def rule(number: int, edition: str) -> Document:
    body = "\n\n".join(f"Section {part} of rule {number}: leave, pay, travel by train." for part in range(12))
    return Document(id=f"rule/{number:02}", title=f"Rule {number}", text=f"# Edition {edition}\n\n{body}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty documents, ten of them with a past, one deleted, and a conversation."""
    path = tmp_path_factory.mktemp("repair") / "whole.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.add(rule(number, "one") for number in range(31))
        index.add(rule(number, "two") for number in range(10))
        index.delete(["rule/30"])
        index.search("what is rule 3?", thread_id="t")
    return path


@pytest.fixture(scope="module")
def wanted(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answers(shutil.copytree(whole, tmp_path_factory.mktemp("wanted") / "i.lir"))


@pytest.fixture
def large(quick_path: Path) -> Path:
    """So many passages that Chroma writes its HNSW index to a file, which it does for each thousand."""
    path = quick_path / "large.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.add(rule(number, "one") for number in range(400))
        assert index.stats()["live_passages"] > 1100
    return path


@pytest.fixture
def path(whole: Path, quick_path: Path) -> Path:
    return Path(shutil.copytree(whole, quick_path / "i.lir"))


def answers(path: Path) -> dict[str, Any]:
    """What every search gives, now and then; fails where the index says of itself that something is wrong."""
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        assert index.verify() == []
        return {
            f"{query} {epoch}": [
                (hit.passage_id, hit.score, dict(hit.breakdown)) for hit in index.search(query, k=500, as_of=epoch)
            ]
            for query in QUERIES
            for epoch in (None, 1)
        }


def file_of(path: Path, store: str) -> Path:
    patterns = {
        "catalog": "catalog.sqlite",
        "audit": "audit.sqlite",
        "memory": "memory.sqlite",
        "tokens": "tokens.lmdb/tokens.*.mdb",
        "lexical": "lexical.lmdb/lexical.*.mdb",
        "vectors": "chroma/*/chroma.sqlite3",
        "hnsw": "chroma/*/*/data_level0.bin",
    }
    (file,) = path.glob(patterns[store])
    return file


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def junk(file: Path) -> None:
    file.write_bytes(b"GIF89a" * 3000)


def scramble(file: Path, page: int, seed: int) -> None:
    """Overwrites one page with noise."""
    with file.open("r+b") as stream:
        stream.seek(page * PAGE_BYTES)
        stream.write(random.Random(seed).randbytes(min(PAGE_BYTES, file.stat().st_size - page * PAGE_BYTES)))


def flip(file: Path, seed: int, *, bits: int = 24) -> None:
    chance, content = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(bits):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def everything(path: Path) -> dict[str, bytes]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file): file.read_bytes() for file in files if not file.name.endswith(("lock", "-wal", "-shm"))}


def mended(path: Path, wanted: dict[str, Any]) -> RepairReport:
    """Repairs; the index must be whole then and answer as it did."""
    report = repair(path, encoder=HashedEncoder())
    assert report.ok, report
    assert answers(path) == wanted
    return report


def stores(report: RepairReport) -> set[str]:
    return {finding.store for finding in report.findings}


# ---------------------------------------------------------------- what can be derived


def test_a_whole_index_is_left_as_it_is(path):
    before = everything(path)
    report = repair(path, encoder=HashedEncoder())
    assert (report.findings, report.left, report.event_id, report.ok) == ((), (), "", True)
    assert everything(path)[str(path / "audit.sqlite")] == before[str(path / "audit.sqlite")]


@pytest.mark.parametrize("damage", [shutil.rmtree, cut, junk], ids=["missing", "truncated", "foreign"])
@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_a_derived_store_that_cannot_be_read_is_named_and_made_again(path, wanted, store, damage):
    file = file_of(path, store)
    damage(file.parents[1 if store == "vectors" else 0] if damage is shutil.rmtree else file)
    report = mended(path, wanted)
    assert stores(report) == {store}
    assert [finding.mend for finding in report.findings] == ["rebuild"]
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        event = index.audit.get(report.event_id)
    assert event.kind == "configuration"
    assert event.payload["changed"]["operation"] == "repair"
    assert event.payload["changed"]["stores"][0]["store"] == store


@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_a_file_where_a_store_should_be_is_replaced_by_the_store(path, wanted, store):
    directory = file_of(path, store).parents[1 if store == "vectors" else 0]
    shutil.rmtree(directory)
    directory.write_bytes(b"GIF89a")
    assert stores(mended(path, wanted)) == {store}


@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_a_corrupted_page_is_found_or_harmless_and_mended(path, wanted, store):
    assert damaged_pages(path, wanted, store, range(2)) > 0


def test_a_corrupted_page_of_the_hnsw_index_is_found_and_mended(large):
    assert damaged_pages(large, answers(large), "hnsw", range(2)) > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_forty_corrupted_pages_are_found_or_harmless_and_mended(path, wanted, store):
    found = damaged_pages(path, wanted, store, range(2, 42))
    print(f"{store}: {found} of 40 damages found; the others change no answer")
    assert found > 20


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_forty_corrupted_pages_of_the_hnsw_index_are_found_or_harmless_and_mended(large):
    found = damaged_pages(large, answers(large), "hnsw", range(2, 42))
    print(f"hnsw: {found} of 40 damages found; the others change no answer")
    assert found > 20


def damaged_pages(path: Path, wanted: dict[str, Any], store: str, seeds: range) -> int:
    """Damages a copy for each seed, by turns one page or some bits; how many were found. Each must be mended."""
    found = 0
    for seed in seeds:
        copy = Path(shutil.copytree(path, path.with_name(f"{seed}.lir")))
        file = file_of(copy, store)
        if seed % 2:
            flip(file, seed)
        else:
            scramble(file, random.Random(seed).randrange(-(-file.stat().st_size // PAGE_BYTES)), seed)
        report = mended(copy, wanted)
        assert stores(report) <= {"vectors" if store == "hnsw" else store}
        found += bool(report.findings)
        shutil.rmtree(copy)
    return found


def test_token_vectors_that_are_damaged_are_encoded_again_and_no_others(path, wanted):
    """One flipped byte of one passage's vectors, which only its checksum tells."""
    file = file_of(path, "tokens")
    content = bytearray(file.read_bytes())
    with closing(opened(path, "tokens")) as tokens:
        codes = tokens.gather(tokens.rows()[1:2]).data.tobytes()
    assert content.count(codes) == 1
    content[content.index(codes) + 20] ^= 1
    file.write_bytes(content)
    encoder = HashedEncoder()
    report = repair(path, encoder=encoder)
    assert [(one.store, one.mend, one.rows) for one in report.findings] == [("tokens", "rows", 1)]
    assert report.ok
    assert answers(path) == wanted
    again = HashedEncoder()
    inspect(path, encoder=again)
    assert len(encoder.documents) == 1 + 2 * len(again.documents)  # each look encodes its sample


def test_words_that_became_others_are_found(path, wanted):
    """A byte of a term: every count still agrees, and a search for the word finds nothing."""
    file = file_of(path, "lexical")
    content = file.read_bytes()
    assert content.count(b"travel\0") > 0
    file.write_bytes(content.replace(b"travel\0", b"travem\0"))
    assert stores(mended(path, wanted)) == {"lexical"}


@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_rows_that_are_missing_or_unknown_are_named_and_mended(path, wanted, store):
    with closing(opened(path, store)) as opened_store:
        first = opened_store.rows()[:3]
        opened_store.delete(first)
        add_unknown(opened_store, store, np.array([9000, 9001]))
    report = mended(path, wanted)
    assert sorted((one.store, one.mend, one.rows) for one in report.findings) == [
        (store, "forget", 2),
        (store, "rows", 3),
    ]
    assert not any(b"quetzal" in content for content in everything(path / "lexical.lmdb").values())


def opened(path: Path, store: str) -> Any:
    if store == "tokens":
        return LmdbTokens.open(path / "tokens.lmdb", TokenCodec(HashedEncoder.token_dim), HashedEncoder.dense_dim)
    if store == "lexical":
        return LmdbLexical.open(path / "lexical.lmdb")
    return ChromaVectors.open(path / "chroma", HashedEncoder.dense_dim)


def add_unknown(store: Any, name: str, rows: np.ndarray) -> None:
    if name == "tokens":
        known = store.rows()[: len(rows)]
        store.put(rows, store.gather(known), store.pooled(known))
    elif name == "lexical":
        store.add(rows, ["the quetzal sleeps"] * len(rows))
    else:
        vectors = np.eye(HashedEncoder.dense_dim, dtype=np.float32)[: len(rows)]
        store.upsert(rows, vectors, [0] * len(rows))


def test_a_store_of_another_generation_is_made_again(path, wanted, quick_path):
    """Whole, of the right widths, and full of vectors of another encoder."""
    other = quick_path / "other.lir"
    with LateInteractionIndex.open(other, encoder=HashedEncoder(seed=1)) as index:
        index.add(rule(number, "one") for number in range(31))
        index.add(rule(number, "two") for number in range(10))
    shutil.rmtree(path / "tokens.lmdb")
    shutil.copytree(other / "tokens.lmdb", path / "tokens.lmdb")
    assert "tokens" in stores(mended(path, wanted))


def test_an_older_copy_of_a_store_catches_up_and_forgets_what_was_erased(quick_path):
    path = quick_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.add([rule(1, "one"), Document(id="secret", text="The quetzal sleeps at noon.")])
    shutil.copytree(path / "lexical.lmdb", quick_path / "older.lmdb")
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.erase(["secret"])
        index.add([rule(2, "one")])
    wanted = answers(path)
    shutil.rmtree(path / "lexical.lmdb")
    shutil.copytree(quick_path / "older.lmdb", path / "lexical.lmdb")
    report = mended(path, wanted)
    assert {one.mend for one in report.findings} == {"rows", "forget"}
    assert not any(b"quetzal" in content for content in everything(path).values())


def test_all_derived_stores_at_once(path, wanted):
    for name in ("tokens.lmdb", "lexical.lmdb", "chroma"):
        shutil.rmtree(path / name)
    told: list[tuple[str, int, int]] = []
    report = repair(path, encoder=HashedEncoder(), progress=lambda *step: told.append(step))
    assert report.ok
    assert stores(report) == {"tokens", "lexical", "vectors"}
    assert answers(path) == wanted
    assert {doing for doing, _, _ in told} == {"reading the catalog", "writing passages"}
    assert told[-1][1] == told[-1][2] > 0


# ---------------------------------------------------------------- what can be made from nothing else


@pytest.fixture
def refused(path: Path) -> Callable[[str], RepairReport]:
    """Repairs a directory in which nothing may change, and gives the report."""

    def run(store: str) -> RepairReport:
        shutil.rmtree(path / "lexical.lmdb")  # could be mended, and must not be
        before = everything(path)
        report = repair(path, encoder=HashedEncoder())
        assert not report.ok
        assert report.event_id == ""
        assert store in stores(report)
        assert everything(path) == before
        (finding, *_) = [one for one in report.left if one.store == store]
        assert finding.mend == ""
        assert "backup" in finding.remedy
        return report

    return run


@pytest.mark.parametrize(
    ("store", "damage", "words"),
    [
        ("catalog", cut, "is truncated"),
        ("catalog", junk, "no SQLite database"),
        ("audit", cut, "malformed"),
        ("audit", junk, "not a database"),
    ],
)
def test_a_truth_that_cannot_be_read_changes_nothing(path, refused, store, damage, words):
    damage(file_of(path, store))
    assert words in str(refused(store).findings)


@pytest.mark.parametrize("store", ["catalog", "audit"])
def test_a_corrupted_page_of_the_truth_is_named_and_changes_nothing(path, refused, store):
    file = file_of(path, store)
    scramble(file, page=file.stat().st_size // PAGE_BYTES // 2, seed=1)
    assert "malformed" in str(refused(store).findings)


def test_a_lost_audit_log_is_named(path, refused):
    file_of(path, "audit").unlink()
    assert "gone" in str(refused("audit").findings)


def test_an_audit_event_that_was_edited_is_named(path, refused):
    with closing(sqlite3.connect(file_of(path, "audit"))) as connection, connection:
        connection.execute("DROP TRIGGER leaf_UPDATE")
        connection.execute("UPDATE leaf SET body = replace(body, 'ingest', 'digest') WHERE position = 0")
    assert "event 0" in str(refused("audit").findings)


def test_an_older_copy_of_the_catalog_is_named(path, refused):
    old = (path / "catalog.sqlite").read_bytes()
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        index.add([rule(40, "one")])
        index.delete(["rule/01"])
        assert index.verify() == []
    (path / "catalog.sqlite").write_bytes(old)
    assert "older copy" in str(refused("catalog").findings)
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        (problem,) = index.verify()
        assert "older copy" in problem


def test_a_change_that_was_told_and_never_came_is_no_older_copy(path):
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        for _ in range(3):  # as after three crashes between the log and the catalog
            epoch = index.rooms.catalog.epoch + 1
            index.audit.append(payloads.version(None, operation="retire", documents=[], index_epoch=epoch))
        assert index.verify() == []
        index.search("what is rule 3?")
        assert index.verify() == []
    assert inspect(path, encoder=HashedEncoder()) == ()


def test_one_epoch_back_is_named_where_somebody_searched_in_it(path):
    old = (path / "catalog.sqlite").read_bytes()
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        index.delete(["rule/01"])
        index.search("what is rule 3?")
    (path / "catalog.sqlite").write_bytes(old)
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), create=False) as index:
        assert "older copy" in index.verify()[0]


def test_a_text_of_the_catalog_that_changed_is_named(path, refused):
    with closing(sqlite3.connect(file_of(path, "catalog"))) as connection, connection:
        connection.execute("UPDATE passage SET text = replace(text, 'travel', 'gravel') WHERE row = 7")
    (finding,) = refused("catalog").findings
    assert (finding.rows, finding.mend) == (1, "")


def test_a_memory_that_is_damaged_is_named_and_the_rest_is_mended(path):
    shutil.rmtree(path / "lexical.lmdb")
    junk(file_of(path, "memory"))
    report = repair(path, encoder=HashedEncoder())
    assert {one.store for one in report.findings} == {"memory", "lexical"}
    assert [one.store for one in report.left] == ["memory"]
    assert "move it away" in report.left[0].remedy
    file_of(path, "memory").unlink()
    assert inspect(path, encoder=HashedEncoder()) == ()


def test_corrupted_pages_of_memory_are_found_and_the_index_can_do_without(path, wanted):
    file = file_of(path, "memory")
    for page in range(1, file.stat().st_size // PAGE_BYTES):
        scramble(file, page, seed=page)
    assert {one.store for one in inspect(path, encoder=HashedEncoder())} == {"memory"}
    with pytest.raises(StoreError, match="memory") as caught:
        LateInteractionIndex.open(path, encoder=HashedEncoder())
    assert "Move" in caught.value.remedy
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), store=InMemoryStore()) as index:
        told = [(hit.passage_id, hit.score, dict(hit.breakdown)) for hit in index.search(QUERIES[0], k=500)]
    assert told == wanted[f"{QUERIES[0]} None"]


# ---------------------------------------------------------------- who may repair


def test_a_repair_that_is_interrupted_is_finished_by_calling_it_again(path, wanted, monkeypatch):
    """At every file that it removes."""
    for store in ("tokens", "lexical", "vectors"):
        junk(file_of(path, store))
    for removed in range(20):
        again = Path(shutil.copytree(path, path.with_name(f"{removed}.lir")))
        left = iter(range(removed))

        def unlink(name: Any, *, dir_fd: int | None = None, left: Any = left, real: Any = os.unlink) -> None:
            if dir_fd is not None and next(left, None) is None:  # only whole directories are removed so
                raise KeyboardInterrupt
            real(name, dir_fd=dir_fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", unlink)
            try:
                repair(again, encoder=HashedEncoder())
                assert removed >= 3
                return
            except KeyboardInterrupt:
                pass
        assert repair(again, encoder=HashedEncoder()).ok
        assert answers(again) == wanted
    pytest.fail("it removes more files than there are")


def test_an_open_index_is_not_repaired(path):
    with LateInteractionIndex.open(path, encoder=HashedEncoder()), pytest.raises(IndexLocked):
        repair(path, encoder=HashedEncoder())


def test_what_is_no_index_is_not_repaired(tmp_path):
    with pytest.raises(InputError):
        repair(tmp_path / "absent", encoder=HashedEncoder())
    assert not (tmp_path / "absent").exists()
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam")
    with pytest.raises(InputError):
        repair(tmp_path, encoder=HashedEncoder())


def test_another_encoder_repairs_nothing(path):
    before = everything(path)
    with pytest.raises(IntegrityError):
        repair(path, encoder=HashedEncoder(seed=1))
    assert everything(path) == before
