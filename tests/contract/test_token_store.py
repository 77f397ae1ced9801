"""What every token store must do, run on LMDB on real disk; a dict is the oracle."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.arrays import PackedTokens
from lir_agents.codes import Bits, TokenCodec
from lir_agents.errors import InputError, IntegrityError, StoreError
from lir_agents.stores.tokens import LmdbTokens

TOKEN_DIM, DENSE_DIM = 24, 32
CODEC = TokenCodec(TOKEN_DIM)


def packed(lengths: list[int], seed: int) -> PackedTokens:
    """Random codes, a matrix per length."""
    rng = np.random.default_rng(seed)
    return PackedTokens.pack([rng.integers(0, 256, (n, CODEC.width), dtype=np.uint8) for n in lengths], CODEC)


def unit(count: int, seed: int, dim: int = DENSE_DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fill(store: LmdbTokens, rows: list[int], seed: int = 0, length: int = 5) -> tuple[PackedTokens, np.ndarray]:
    tokens, pooled = packed([length] * len(rows), seed), unit(len(rows), seed)
    store.put(np.array(rows, np.int64), tokens, pooled)
    return tokens, pooled


def assert_equal(got: PackedTokens, expected: PackedTokens) -> None:
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    np.testing.assert_array_equal(got.data, expected.data)
    assert got.codec == expected.codec


@pytest.fixture
def store(tmp_path: Path):
    with_store = LmdbTokens.open(tmp_path / "tokens", CODEC, DENSE_DIM)
    yield with_store
    with_store.close()


# ---------------------------------------------------------------- against an oracle

ROW = st.integers(0, 12) | st.integers(2**40, 2**40 + 3)
STEP = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(ROW, st.integers(1, 9)), min_size=1, max_size=6)),
    st.tuples(st.just("delete"), st.lists(ROW, max_size=4)),
    st.tuples(st.sampled_from(["compact", "reopen"]), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, max_size=8), asked=st.lists(ROW, max_size=12))
def test_any_history_reads_back_as_a_dict_would(tmp_path_factory, steps, asked) -> None:
    path = tmp_path_factory.mktemp("history")
    store, oracle = LmdbTokens.open(path, CODEC, DENSE_DIM), {}
    for number, (verb, what) in enumerate(steps):
        if verb == "put":
            tokens, pooled = packed([length for _, length in what], number), unit(len(what), number)
            store.put(np.array([row for row, _ in what], np.int64), tokens, pooled)
            for i, (row, _) in enumerate(what):
                part = slice(tokens.offsets[i], tokens.offsets[i + 1])
                oracle[row] = (tokens.data[part], pooled[i])
        elif verb == "delete":
            store.delete(np.array(what, np.int64))
            for row in what:
                oracle.pop(row, None)
        elif verb == "compact":
            store.compact()
        else:
            store.close()
            store = LmdbTokens.open(path, CODEC, DENSE_DIM)
    missing = (np.empty((0, CODEC.width), np.uint8), np.zeros(DENSE_DIM, np.float32))
    expected = [oracle.get(row, missing) for row in asked]
    wanted = np.array(asked, np.int64)
    got, vectors = store.gather(wanted), store.pooled(wanted)
    assert store.rows().tolist() == sorted(oracle)
    assert store.verify() == []
    assert got.lengths.tolist() == [len(data) for data, _ in expected]
    for i, (data, pooled) in enumerate(expected):
        part = slice(got.offsets[i], got.offsets[i + 1])
        np.testing.assert_array_equal(got.data[part], data)
        np.testing.assert_allclose(vectors[i], pooled, atol=3e-4)
    store.close()


def test_order_duplicates_and_missing_rows_are_kept(store: LmdbTokens) -> None:
    tokens = packed([1, 3, 2], 7)
    store.put(np.array([30, 10, 20]), tokens, unit(3, 7))
    got = store.gather(np.array([20, 99, 30, 20]))
    assert got.lengths.tolist() == [2, 0, 1, 2]
    expected = np.concatenate([tokens.data[4:6], tokens.data[0:1], tokens.data[4:6]])
    np.testing.assert_array_equal(got.data, expected)


def test_codes_are_lent_where_they_lie(store: LmdbTokens) -> None:
    tokens, rows = packed([1, 4, 24, 30], 3), np.array([5, 6, 7, 8])
    store.put(rows, tokens, unit(4, 3))
    with store.lent(np.array([8, 5, 99, 7, 6])) as lent:
        assert lent.lengths.tolist() == [30, 1, 0, 24, 4]
        assert lent.addresses[3] - lent.addresses[4] == 4 * CODEC.width, "end to end, in the order of the rows"
        np.testing.assert_array_equal(lent.copied().data[-4:], tokens.data[1:5])


def test_empty_requests_and_an_empty_store(store: LmdbTokens) -> None:
    none = np.empty(0, np.int64)
    assert store.gather(none).data.shape == (0, CODEC.width)
    assert store.gather(np.array([1, 2])).lengths.tolist() == [0, 0]
    assert store.pooled(none).shape == (0, DENSE_DIM)
    assert store.rows().tolist() == []
    assert store.rows().dtype == np.int64
    store.delete(none)
    store.compact()
    assert store.verify() == []


def test_pooled_keeps_the_cosine(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, 384)
    vectors = unit(200, 3, 384)
    store.put(np.arange(200), packed([1] * 200, 3), vectors)
    got = store.pooled(np.arange(200))
    assert (1 - (got * vectors).sum(axis=1)).max() < 1e-5
    assert np.abs(got @ vectors[0] - vectors @ vectors[0]).max() < 1e-4
    assert np.abs(np.linalg.norm(got, axis=1) - 1).max() < 1e-6
    store.close()


def test_what_gather_returns_survives_later_writes(store: LmdbTokens) -> None:
    tokens, _ = fill(store, [1, 2, 3])
    got = store.gather(np.array([1, 2, 3]))
    store.delete(np.array([1, 2, 3]))
    fill(store, [4, 5, 6], seed=9)
    store.compact()
    assert_equal(got, tokens)


# ---------------------------------------------------------------- size


def test_the_map_grows_by_itself_while_others_read(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM, map_bytes=1 << 20)
    first, _ = fill(store, [0])
    stop, failures = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                assert_equal(store.gather(np.array([0])), first)
                time.sleep(0.001)  # a reader that spins keeps the interpreter to itself
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(8):
        fill(store, list(range(1 + 20 * i, 21 + 20 * i)), seed=i, length=2000)  # 8 MB through a map of 1
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(store.rows()) == 161
    store.close()


def test_size_follows_what_is_alive(store: LmdbTokens) -> None:
    fill(store, list(range(50)), length=300)
    full = store.size_bytes()
    assert full >= 50 * 300 * CODEC.width
    store.delete(np.arange(10, 50))
    assert store.size_bytes() < full / 3


@pytest.mark.parametrize(("bits", "most"), [(8, 0.27), (4, 200 / 1536), (2, 100 / 1536)])
def test_codes_take_little_more_than_their_bits(tmp_path: Path, bits: Bits, most: float) -> None:
    codec = TokenCodec(384, bits)
    store = LmdbTokens.open(tmp_path, codec, 384)
    lengths = np.random.default_rng(0).integers(100, 200, 300)
    for at in range(0, 300, 60):  # as ingestion writes them
        part = lengths[at : at + 60]
        codes = [np.full((n, codec.width), 7, np.uint8) for n in part]
        store.put(np.arange(at, at + 60), PackedTokens.pack(codes, codec), unit(60, at, 384))
    assert store.size_bytes() <= most * int(lengths.sum()) * 384 * 4
    store.close()


def test_many_small_writes_take_no_more_once_compacted(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    for row in range(200):
        fill(store, [row], seed=row, length=180)  # of half a page, which takes a whole one
    before, kept = store.size_bytes(), store.gather(np.arange(200))
    store.compact()
    assert store.size_bytes() < 0.7 * before
    assert_equal(store.gather(np.arange(200)), kept)
    store.close()


def test_segments_that_are_mostly_holes_are_written_anew(store: LmdbTokens) -> None:
    fill(store, list(range(100)), length=1000)
    kept = store.gather(np.array([3, 50, 97]))
    full = store.size_bytes()
    for row in sorted({*range(100)} - {3, 50, 97}):
        store.delete(np.array([row]))
    assert store.size_bytes() < full / 8
    assert_equal(store.gather(np.array([3, 50, 97])), kept)
    assert store.verify() == []


def test_compaction_leaves_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    store = LmdbTokens.open(path, CODEC, DENSE_DIM)
    secrets = []
    for row in range(120):  # lengths around one page, so that values lie inline, in one page and in several
        tokens, pooled = packed([1 + row * 3], 1000 + row), unit(1, 1000 + row)
        store.put(np.array([row]), tokens, pooled)
        if row % 2:
            secrets += [tokens.data[:1].tobytes(), tokens.data[-1:].tobytes(), pooled.astype(np.float16).tobytes()]
    kept = store.gather(np.arange(0, 120, 2))
    store.delete(np.arange(1, 120, 2))
    on_disk = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert any(secret in on_disk for secret in secrets), "deletion alone leaves the bytes: the scan can find them"
    store.compact()
    on_disk = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert not any(secret in on_disk for secret in secrets)
    assert kept.data[:1].tobytes() in on_disk
    assert_equal(store.gather(np.arange(0, 120, 2)), kept)
    fill(store, [500])
    store.close()
    store = LmdbTokens.open(path, CODEC, DENSE_DIM)
    assert store.rows().tolist() == [*range(0, 120, 2), 500]
    store.close()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r, t, p: (r - 5, t, p), "rows"),
        (lambda r, t, p: (r[:1], t, p), "tokens.offsets"),
        (lambda r, t, p: (r, packed([2, 0], 0), p), "tokens.offsets"),
        (lambda r, t, p: (r, PackedTokens(t.data.astype(np.float32), t.offsets, None), p), "tokens.data"),
        (lambda r, t, p: (r, PackedTokens(t.data[:, :8], t.offsets, CODEC), p), "tokens.data"),
        (lambda r, t, p: (r, PackedTokens(t.data, t.offsets, TokenCodec(TOKEN_DIM, 8)), p), "tokens.data"),
        (lambda r, t, p: (r, t, p[:, :8]), "pooled"),
        (lambda r, t, p: (r, t, p * np.inf), "pooled"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(store: LmdbTokens, change, field: str) -> None:
    before, _ = fill(store, [0, 1])
    rows, tokens, pooled = change(np.array([0, 1]), packed([2, 3], 5), unit(2, 5))
    with pytest.raises(InputError) as caught:
        store.put(rows, tokens, pooled)
    assert caught.value.field == field
    assert_equal(store.gather(np.array([0, 1])), before)


@pytest.mark.parametrize(
    ("codec", "dense_dim"),
    [(TokenCodec(TOKEN_DIM + 1), DENSE_DIM), (CODEC, DENSE_DIM * 2), (TokenCodec(TOKEN_DIM, 2), DENSE_DIM)],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_other_codecs_and_widths_are_refused_at_open(
    tmp_path: Path, codec: TokenCodec, dense_dim: int, read_only: bool
) -> None:
    LmdbTokens.open(tmp_path, CODEC, DENSE_DIM).close()
    with pytest.raises(IntegrityError, match="made for"):
        LmdbTokens.open(tmp_path, codec, dense_dim, read_only=read_only)
    LmdbTokens.open(tmp_path, CODEC, DENSE_DIM).close()


def test_a_closed_store_says_so_and_closing_twice_is_fine(store: LmdbTokens) -> None:
    fill(store, [1])
    store.close()
    store.close()
    for use in (
        lambda: store.gather(np.array([1])),
        lambda: fill(store, [2]),
        store.rows,
        store.compact,
        store.verify,
    ):
        with pytest.raises(StoreError, match="closed"):
            use()


# ---------------------------------------------------------------- a second process


def test_a_second_process_reads_along_and_may_not_write(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none"):
        LmdbTokens.open(tmp_path, CODEC, DENSE_DIM, read_only=True)
    owner = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM, map_bytes=1 << 20)
    fill(owner, [1])
    script = f"""
        import sys, numpy as np
        from pathlib import Path
        from lir_agents.codes import TokenCodec
        from lir_agents.errors import StoreError
        from lir_agents.stores.tokens import LmdbTokens
        store = LmdbTokens.open(
            Path({str(tmp_path)!r}), TokenCodec({TOKEN_DIM}), {DENSE_DIM}, read_only=True, map_bytes=1 << 20
        )
        print(store.rows().tolist(), flush=True)
        sys.stdin.readline()
        print(len(store.rows()), int(store.gather(np.arange(100)).offsets[-1]), flush=True)
        try:
            store.delete(np.array([1]))
        except StoreError as error:
            print(error.operation, flush=True)
    """
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "[1]\n"
    fill(owner, list(range(2, 62)), length=2000)  # beyond the map that the reader began with
    out, _ = reader.communicate("go\n", timeout=60)
    assert out.split("\n")[:2] == ["61 120005", "delete"]
    owner.close()


# ---------------------------------------------------------------- damage


def data_file(path: Path) -> Path:
    (file,) = path.glob("tokens.*.mdb")
    return file


def test_a_damaged_value_is_named_and_never_returned_as_if_it_were_whole(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    tokens, pooled = fill(store, list(range(10)), length=400)
    store.close()
    file = data_file(tmp_path)
    content = bytearray(file.read_bytes())
    at = content.index(tokens.data[3 * 400 + 7].tobytes())
    content[at] ^= 0xFF
    at = content.index(pooled[5].astype(np.float16).tobytes())
    content[at] ^= 0xFF
    entry = content.index(pooled[8].astype(np.float16).tobytes())
    content[entry - 8] ^= 0x01  # the number of tokens of row 8
    file.write_bytes(content)

    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    assert store.verify() == [3, 5, 8]
    with pytest.raises(IntegrityError, match=r"rows 5, 8\b"):
        store.pooled(np.arange(10))
    with pytest.raises(IntegrityError, match=r"rows 5, 8\b"):
        store.gather(np.arange(10))
    with pytest.raises(IntegrityError, match=r"\b3\b"):
        store.compact()
    store.delete(np.array([3, 5, 8]))
    store.compact()
    assert store.verify() == []
    assert store.rows().tolist() == [0, 1, 2, 4, 6, 7, 9]
    store.close()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused_and_left_alone(tmp_path: Path, keep: float) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    fill(store, list(range(20)), length=400)
    store.close()
    file = data_file(tmp_path)
    content = file.read_bytes()[: int(file.stat().st_size * keep) or 100]
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match="lir doctor --repair` to rebuild"):
        LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    assert file.read_bytes() == content


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "tokens.1.mdb"
    file.write_bytes(b"not a database at all" * 1000)
    content = file.read_bytes()
    with pytest.raises(IntegrityError):
        LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    assert file.read_bytes() == content
    with pytest.raises(StoreError):
        LmdbTokens.open(file, CODEC, DENSE_DIM)


def test_damaged_structure_is_found_without_trusting_it(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path / "whole", CODEC, DENSE_DIM)
    fill(store, list(range(300)))
    store.close()
    file = data_file(tmp_path / "whole")
    pages = file.stat().st_size // 4096
    found = 0
    for page in range(2, pages, max(1, pages // 12)):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        with data_file(tmp_path / "copy").open("r+b") as damaged:
            damaged.seek(page * 4096)
            damaged.write(b"\x00" * 64)
        try:
            copy = LmdbTokens.open(tmp_path / "copy", CODEC, DENSE_DIM)
        except (IntegrityError, StoreError):
            found += 1
            continue
        try:
            found += bool(copy.verify())
        except IntegrityError:
            found += 1
        copy.close()
    assert found >= 8  # the others are free pages, in which nothing lies


def test_leftovers_of_a_compaction_that_died_are_ignored_and_removed(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    tokens, _ = fill(store, [1, 2])
    store.close()
    (tmp_path / "tokens.2.partial").write_bytes(b"half a copy")
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    assert_equal(store.gather(np.array([1, 2])), tokens)
    assert not (tmp_path / "tokens.2.partial").exists()
    store.close()
    shutil.copy(data_file(tmp_path), tmp_path / "tokens.2.mdb")  # died after the swap, before the removal
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    assert_equal(store.gather(np.array([1, 2])), tokens)
    assert data_file(tmp_path).name == "tokens.2.mdb"
    store.close()


def test_small_segments_are_found_again_wherever_their_page_moves(tmp_path: Path) -> None:
    """A few codes share a page of LMDB's tree with others, and every write beside them moves that page."""
    store = LmdbTokens.open(tmp_path, CODEC, DENSE_DIM)
    first, _ = fill(store, [0])
    for row in range(1, 60):
        assert_equal(store.gather(np.array([0])), first)
        fill(store, [row], seed=row, length=1 + row % 7 * 40)
        if row % 3 == 0:
            store.delete(np.array([row - 1]))
    assert_equal(store.gather(np.array([0])), first)
    store.close()


# ---------------------------------------------------------------- damage stays in sight


def spoil(store: LmdbTokens, database: bytes, key: bytes, change) -> None:
    """Writes what a failing disk might leave: `change` of a value, None for none."""

    def put(txn, databases) -> None:
        value = bytearray(txn.get(key, db=databases[database]))
        txn.put(key, bytes(change(value)), db=databases[database])

    store._file.write("spoil", put)


def flipped(value: bytearray) -> bytearray:
    value[0] ^= 0x40
    return value


FIRST = (1).to_bytes(8, "big")


def test_codes_damaged_since_keep_the_checksum_they_were_put_with(store: LmdbTokens) -> None:
    fill(store, [1, 2, 3, 4], length=50)
    spoil(store, b"segments", FIRST, flipped)
    store.delete(np.array([2, 3, 4]))  # leaves a segment that is mostly holes
    assert store.verify() == [1]


@pytest.mark.parametrize("recorded", [b"", bytes(8), (2**33).to_bytes(8, "big")])
def test_a_damaged_state_makes_no_segment_overwrite_another(store: LmdbTokens, recorded: bytes) -> None:
    fill(store, [1, 2], seed=1)
    fill(store, [3, 4], seed=2)
    spoil(store, b"state", b"state", lambda _: recorded)
    tokens, _ = fill(store, [5, 6], seed=3)
    assert_equal(store.gather(np.array([5, 6])), tokens)
    assert store.verify() == []


def test_a_segment_that_is_gone_is_missed_not_read_where_it_was(store: LmdbTokens) -> None:
    fill(store, [1, 2, 3], length=9000)
    store.gather(np.array([1, 2, 3]))
    spoil(store, b"members", FIRST, flipped)  # row 1 is no longer named: its segment goes with the others
    store.delete(np.array([2, 3]))
    for row in range(10, 16):
        fill(store, [row], seed=row, length=18000)
    with pytest.raises(IntegrityError, match=r"rows 1\b"):
        store.gather(np.array([1]))
