"""The two loops that touch every token vector, beside the least they could cost: MaxSim and gathering.

MaxSim of 32 query tokens and 100 passages of about 150 tokens, at two widths, beside other libraries and beside the
bare product of the same bytes: the fastest of several ways to call it, on one thread and on all. Gathering 100
passages out of the token store beside a plain copy of as many bytes, from memory that the caches do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted
from benchmarks.timing import interleaved, percentiles, ratio
from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec, quantise_int8
from lir_agents.ranking.kernels import best_kernel
from lir_agents.ranking.maxsim import maxsim
from lir_agents.stores.tokens import LmdbTokens
from lir_agents.threads import alone

DIMS = (128, 384)
_QUERY_TOKENS, _PASSAGES, _PASSAGE_TOKENS, _VARIED = 32, 100, 150, 50
_ROUNDS = 200
_PASSAGES_HELD = 10_000
_FAR = 256 << 20
"""Bytes that copies are taken from: more than any cache holds."""

Call = Callable[[Any], object]


def run(bench: Bench) -> None:
    """Two files: maxsim, gather."""
    rounds = bench.limit or _ROUNDS
    if bench.standing("scoring/maxsim") is None:
        bench.write("scoring/maxsim", _maxsim(rounds))
    if bench.standing("scoring/gather") is None:
        bench.write("scoring/gather", _gather(bench, rounds))


# ---------------------------------------------------------------- MaxSim


def _maxsim(rounds: int) -> dict[str, Any]:
    return {
        "query_tokens": _QUERY_TOKENS,
        "passages": _PASSAGES,
        "passage_tokens": _PASSAGE_TOKENS,
        "kernel": best_kernel(),
        "dims": {str(dim): against_the_product(dim, rounds) for dim in DIMS},
    }


def against_the_product(dim: int, rounds: int, *, rivals: bool = True) -> dict[str, Any]:
    """Scoring at one width: milliseconds of everything, and what matters as ratios.

    Args:
        dim: Width of a token vector.
        rounds: Calls of each.
        rivals: Whether other libraries take their turns too.
    """
    query, matrices = _random(dim)
    rows = np.arange(len(matrices), dtype=np.int64)
    with _stored(matrices) as store:
        packed, exact = store.gather(rows), PackedTokens.pack(matrices, None)
        bytes_each = _packed(matrices, TokenCodec(dim, 8))
        systems: dict[str, Call] = {
            "maxsim": lambda _: maxsim(query, packed),
            "maxsim, 8 bits": lambda _: maxsim(query, bytes_each),
            "fetch and maxsim": lambda _: _fetched(query, store, rows),
        }
        if rivals:
            systems["maxsim, float32"] = lambda _: maxsim(query, exact)
            systems |= _rivals(query, matrices)
        bare = _bare(query, np.concatenate(matrices))
        taken = interleaved(systems | bare, range(rounds))
    measured = percentiles(taken)
    limit = min(bare, key=lambda name: measured[name]["p50"])
    found = {f"maxsim against {name}": ratio(taken, name, "maxsim") for name in _RIVALS if name in taken}
    return {
        "latency_ms": measured,
        "fastest_ms": {name: min(each) for name, each in taken.items()},
        "limit": limit,
        "maxsim against the bare product": ratio(taken, "maxsim", limit),
        "maxsim of 8 bits against the bare product": ratio(taken, "maxsim, 8 bits", limit),
        **found,
    }


def _fetched(query: NDArray[np.float32], store: LmdbTokens, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """As a search does: the codes are compared where they lie in the store."""
    with store.lent(rows) as lent:
        return maxsim(query, lent)


def _packed(matrices: list[NDArray[np.float32]], codec: TokenCodec) -> PackedTokens:
    return PackedTokens.pack([codec.encode(matrix) for matrix in matrices], codec)


def _random(dim: int) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Unit vectors: a query, and passages of 100 to 200 tokens that make 150 on average."""
    draw = np.random.default_rng(0)
    half = draw.integers(-_VARIED, _VARIED + 1, _PASSAGES // 2)
    lengths = _PASSAGE_TOKENS + np.concatenate([half, -half])
    query, *matrices = (unit(draw.normal(size=(n, dim))) for n in (_QUERY_TOKENS, *lengths.tolist()))
    return query, matrices


@contextmanager
def _stored(matrices: list[NDArray[np.float32]]) -> Iterator[LmdbTokens]:
    """A token store of its own that holds them, as rows 0, 1, …"""
    dim = matrices[0].shape[1]
    pooled = unit(np.stack([matrix.mean(axis=0) for matrix in matrices]))
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        codec = TokenCodec(dim)
        store = LmdbTokens.open(Path(folder), codec, dim)
        try:
            store.put(np.arange(len(matrices), dtype=np.int64), _packed(matrices, codec), pooled)
            yield store
        finally:
            store.close()


_RIVALS = ("sentence-transformers", "maxsim-cpu")


def _rivals(query: NDArray[np.float32], matrices: list[NDArray[np.float32]]) -> dict[str, Call]:
    """Other libraries, over the same vectors in the form that each wants."""
    from sentence_transformers.util import maxsim as reference

    asked, documents = torch.from_numpy(query), [torch.from_numpy(matrix) for matrix in matrices]
    found: dict[str, Call] = {"sentence-transformers": lambda _: reference([asked], documents)}
    if query.shape[1] != 128:
        return found  # maxsim-cpu 0.1 answers 1e37 at 384 dimensions, and then crashes the process
    if find_spec("maxsim_cpu") is None:
        say("maxsim-cpu: not installed, left out (pip install '.[bench]')")
        return found
    import maxsim_cpu

    return found | {"maxsim-cpu": lambda _: maxsim_cpu.maxsim_scores_variable(query, matrices)}


def _bare(query: NDArray[np.float32], tokens: NDArray[np.float32]) -> dict[str, Call]:
    """The matrix product alone, of a byte for every coordinate: whichever of these is fastest is the limit."""
    data, codes = (torch.from_numpy(quantise_int8(vectors)[0]) for vectors in (tokens, query))
    upright = codes.T.contiguous()
    ways: dict[str, Callable[[], object]] = {
        "passages × query": lambda: torch._int_mm(data, codes.T),
        "passages × query, laid out": lambda: torch._int_mm(data, upright),
        "query × passages": lambda: torch._int_mm(codes, data.T),
    }

    def calls(way: Callable[[], object]) -> tuple[Call, Call]:
        def one(_: Any) -> None:
            with alone():
                way()

        return one, lambda _: way()

    found: dict[str, Call] = {}
    for name, way in ways.items():
        found[f"bare {name}, one thread"], found[f"bare {name}"] = calls(way)
    return found


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each row at length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


# ---------------------------------------------------------------- gathering


def _gather(bench: Bench, rounds: int) -> dict[str, Any]:
    """100 passages at random out of an index of 10,000, in every round others."""
    with mixed(bench, passages_wanted(bench, _PASSAGES_HELD)) as index:
        tokens, held = index.rooms.tokens, index.rooms.tokens.rows()
        draw = np.random.default_rng(0)
        chosen = [np.sort(draw.choice(held, min(_PASSAGES, len(held)), replace=False)) for _ in range(rounds)]
        sizes = [tokens.gather(rows).data.nbytes for rows in chosen]  # and the pages are in memory from here on
        copies = _Copies(max(sizes))
        taken = interleaved(
            {
                "gather": lambda at: tokens.gather(chosen[at]),
                "lend": lambda at: _lent(tokens, chosen[at]),
                "copy": lambda at: copies.over(sizes[at]),
                "copy into new memory": lambda at: copies.new(sizes[at]),
            },
            range(rounds),
        )
    return {
        "passages": _PASSAGES,
        "held": len(held),
        "bytes": int(np.median(sizes)),
        "latency_ms": percentiles(taken),
        "gather against a copy": ratio(taken, "gather", "copy"),
    }


def _lent(tokens: LmdbTokens, rows: NDArray[np.int64]) -> int:
    """What a search does instead of copying."""
    with tokens.lent(rows) as lent:
        return len(lent)


class _Copies:
    """Plain copies of as many bytes, from another place each time."""

    def __init__(self, most: int) -> None:
        self._from = np.ones(_FAR, np.uint8)
        self._into = np.ones(most, np.uint8)
        self._at = 0

    def over(self, size: int) -> NDArray[np.uint8]:
        """Into memory that was there."""
        np.copyto(self._into[:size], self._next(size))
        return self._into

    def new(self, size: int) -> NDArray[np.uint8]:
        """Into memory that the system hands out for it, as an array that is returned must be."""
        return self._next(size).copy()

    def _next(self, size: int) -> NDArray[np.uint8]:
        self._at = (self._at + size) % (_FAR - size)
        return self._from[self._at : self._at + size]
