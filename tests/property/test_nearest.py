"""The compiled bounds of the scan: the same bits by every path as NumPy gives, and as integers say they must be."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.native import nearest
from lir_agents.native.library import paths
from lir_agents.native.nearest import VectorCodes, VectorDigits, places_of, product_bounds
from lir_agents.stores import scan
from lir_agents.stores.scan import ResidentMatrix

COMPILED = pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
ROUNDING = 2e-6


def scene(
    seed: int, count: int, dim: int, vectors: int, *, largest: bool = False
) -> tuple[VectorCodes, list[VectorDigits]]:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (count, dim), dtype=np.int8)
    if largest:  # the largest sums there are
        values[::2] = 127
    codes = VectorCodes(values, rng.random(count, np.float32) / 100, rng.random(count, np.float32) / 50)
    digits = rng.integers(-127, 128, (vectors, 2, dim), dtype=np.int8)
    if largest:
        digits[::2] = 127
    return codes, [VectorDigits(one, float(rng.random()), float(rng.random() / 1e4)) for one in digits]


@COMPILED
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.sampled_from([1, 2, 47, 48, 49, 300, 4000]),
    dim=st.sampled_from([1, 15, 16, 63, 64, 65, 100, 384, 1100]),
    vectors=st.integers(1, 4),
    k=st.integers(1, 400),
    share=st.sampled_from([0.1, 0.9, 1.0]),
    largest=st.booleans(),
)
def test_every_path_gives_the_bits_of_numpy(seed, count, dim, vectors, k, share, largest) -> None:
    codes, asked = scene(seed, count, dim, vectors, largest=largest)
    places = np.flatnonzero(np.random.default_rng(seed).random(count) < share).astype(np.int32)
    places = places if len(places) else np.zeros(1, np.int32)
    k = min(k, len(places))
    upper, least = nearest._bounds_by_numpy(codes, places, asked, k, ROUNDING)
    for path in paths():
        found = product_bounds(codes, places, asked, k, ROUNDING, path)
        np.testing.assert_array_equal(found[0], upper)
        np.testing.assert_array_equal(found[1], least)


@pytest.mark.parametrize("dim", [1, 17, 384, 1040, 1041, 4096])
def test_numpy_multiplies_as_integers_are(dim) -> None:
    """The two sides of where a float32 no longer holds every sum, with the largest sums there are."""
    left, right = (
        np.random.default_rng(dim).integers(-127, 128, size, dtype=np.int8) for size in ((60, dim), (dim, 4))
    )
    left[:30], right[:, 0] = 127, 127
    right[:, 1] = -127
    np.testing.assert_array_equal(nearest._products(left, right), left.astype(np.int64) @ right.astype(np.int64))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 70),
    positions=st.integers(0, 70),
    unknown=st.sampled_from([0.0, 0.02, 0.5]),
)
def test_places_are_those_of_numpy(seed, rows, positions, unknown) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random(rows) < 0.5
    position = rng.permutation(positions).astype(np.int32)
    position[rng.random(positions) < 0.2] = -2
    position[rng.random(positions) < unknown] = -1
    found, known = places_of(allowed, position), min(rows, positions)
    wanted = None if allowed[known:].any() else nearest._places_by_numpy(allowed[:known], position[:known])
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert (
            found.tolist()
            == wanted.tolist()
            == [at for row, at in enumerate(position) if row < rows and allowed[row] and at >= 0]
        )


@COMPILED
@pytest.mark.parametrize("path", paths())
def test_with_help_and_without_it_is_the_same(path, monkeypatch) -> None:
    """Enough codes to be worth help, several callers at once, and only one of them has it."""
    monkeypatch.setattr(nearest, "several_processors", lambda: True)
    codes, asked = scene(1, 30_000, 384, 8)
    places = np.arange(30_000, dtype=np.int32)
    wanted = [product_bounds(codes, places, [one], 100, ROUNDING, path, helped=False) for one in asked]

    def ask(at: int) -> bool:
        found = product_bounds(codes, places, [asked[at % 8]], 100, ROUNDING, path)
        return all(np.array_equal(a, b) for a, b in zip(found, wanted[at % 8], strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(40)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), dim=st.sampled_from([1, 7, 65, 384]), compiled=st.booleans())
def test_what_is_bounded_lies_within(seed, dim, compiled) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((200, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored, query = vectors.astype(np.float32), vectors[0].astype(np.float32)
    scales = (np.abs(stored).max(axis=1) / 127).astype(np.float32)
    values = np.rint(stored / scales[:, None])
    errors = np.linalg.norm(stored - values * scales[:, None], axis=1).astype(np.float32)
    codes, places = VectorCodes(values.astype(np.int8), scales, errors), np.arange(200, dtype=np.int32)
    work = product_bounds if compiled and paths() else nearest._bounds_by_numpy
    (upper,), (least,) = work(codes, places, [scan._digits(query)], 10, ROUNDING)
    exact = stored.astype(np.float64) @ query.astype(np.float64)
    assert (exact <= upper).all()
    assert (upper - exact < 0.06).all()  # and not by much
    assert np.sort(exact)[-10] - 0.06 < least <= np.sort(exact)[-10]


def test_the_scan_is_as_exact_where_nothing_was_compiled(monkeypatch) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((3000, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    allowed = rng.random(3000) < 0.7
    asked = list(vectors[:5])
    found = ResidentMatrix(48, lambda rows: vectors[rows]).search_batch(asked, 20, allowed)
    monkeypatch.setattr(nearest, "paths", lambda: ())
    without = ResidentMatrix(48, lambda rows: vectors[rows]).search_batch(asked, 20, allowed)
    for one, other, query in zip(found, without, asked, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        scores = np.where(allowed, vectors @ query, -2)
        assert set(one[0].tolist()) == set(np.argsort(-scores)[:20].tolist())


@COMPILED
def test_nothing_behind_the_last_code_is_read() -> None:
    """The codes end where a page does, and the next page may not be touched: reading it ends the process."""
    script = """
        import ctypes, mmap
        import numpy as np
        from lir_agents.native.library import paths
        from lir_agents.native.nearest import VectorCodes, VectorDigits, places_of, product_bounds
        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for dim in (100, 64, 17, 1):
            count = page // dim
            values = np.frombuffer(memory, np.int8, count * dim, page - count * dim).reshape(count, dim)
            ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0)
            codes = VectorCodes(values, np.ones(count, np.float32), np.ones(count, np.float32))
            digits = [VectorDigits(np.ones((2, dim), np.int8), 1.0, 0.0)] * 3
            for path in paths():
                product_bounds(codes, np.arange(count, dtype=np.int32), digits, 5, 0.0, path)
        for kind, size in ((np.bool_, 1), (np.int32, 4)):
            ends = np.frombuffer(memory, kind, 50, page - 50 * size)
            others = np.ones(50, np.bool_ if kind is np.int32 else np.int32)
            pair = (others, ends) if kind is np.int32 else (ends, others)
            places_of(*pair)
        print("read", len(paths()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == f"read {len(paths())}\n", done.stderr


@COMPILED
def test_what_does_not_fit_together_is_refused() -> None:
    codes, asked = scene(3, 10, 16, 1)
    places = np.arange(10, dtype=np.int32)
    for k in (0, 11):
        with pytest.raises(ValueError, match=f"k is {k} of 10"):
            product_bounds(codes, places, asked, k, ROUNDING)
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="of more than 10 codes"):
            product_bounds(codes, np.array([0, wrong], np.int32), asked, 1, ROUNDING)
    with pytest.raises(ValueError, match="int64"):
        product_bounds(codes, places.astype(np.int64) + 2**32, asked, 1, ROUNDING)
    with pytest.raises(ValueError, match="no path"):
        product_bounds(codes, places, asked, 1, ROUNDING, "mmx")
    with pytest.raises(ValueError, match=r"\(2, 15\) where \(2, 16\)"):
        product_bounds(codes, places, [VectorDigits(asked[0].values[:, :15], 1.0, 0.0)], 1, ROUNDING)
    for part in ("scales", "errors"):
        parts = {"scales": codes.scales, "errors": codes.errors} | {part: codes.scales[:9]}
        with pytest.raises(ValueError, match=r"\(9,\) where \(10,\)"):
            product_bounds(VectorCodes(codes.values, **parts), places, asked, 1, ROUNDING)
