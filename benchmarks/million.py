"""A million made passages in the product's token store and vector scan: what still holds, and what breaks first."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.timing import interleaved, percentiles
from lir_agents.arrays import PackedTokens, Rows
from lir_agents.codes import TokenCodec
from lir_agents.encoding.base import QueryText
from lir_agents.stores.scan import ResidentMatrix
from lir_agents.stores.tokens import LmdbTokens

PASSAGES = 1_000_000
_REAL = 100_000
_NOISE = 0.5
"""Length of what is added to a real vector of length 1: neighbours in name only."""

_TOKENS = 150
_CANDIDATES = 100
_MOST_BYTES = 12 << 30
_OVERHEAD = 1024
_BATCH = 5_000
_QUERIES = 100
_COLD = 20
_SHARES = {"all": 1.0, "50 %": 0.5, "10 %": 0.1, "1 %": 0.01}


def measure(bench: Bench, curve: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the store in a folder that is thrown away, and measures; see `scale`."""
    size = passages_wanted(bench, PASSAGES)
    with mixed(bench, passages_wanted(bench, _REAL)) as index:
        rooms, queries = index.rooms, questions(bench, _QUERIES)
        real = rooms.tokens.pooled(np.flatnonzero(rooms.catalog.live()).astype(np.int64))
        asked = [one.pooled for one in rooms.encoder.encode_queries([QueryText(query) for query in queries])]
        dim = rooms.encoder.token_dim
    bench.indexes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.indexes, ignore_cleanup_errors=True) as folder:
        tokens_each = _tokens_each(Path(folder), size, dim)
        say(f"{size:,} made passages of {tokens_each} tokens each")
        _write(Path(folder), size, tokens_each, real, dim)
        cold = _cold(Path(folder), size, tokens_each, dim, real.shape[1])
        store = LmdbTokens.open(Path(folder), TokenCodec(dim), real.shape[1])
        try:
            measured = _measured(store, size, tokens_each, asked)
            held = store.size_bytes()
        finally:
            store.close()
    measured["latency_ms"] |= cold
    about = {"passages": size, "tokens_each": tokens_each, "token_bytes": held}
    return {**about, **measured, **_projected(curve, size)}


def _tokens_each(folder: Path, size: int, dim: int) -> int:
    """As many as a passage has, or what the disk has room for."""
    room = min(_MOST_BYTES, shutil.disk_usage(folder).free // 3)
    return int(max(4, min(_TOKENS, (room // size - _OVERHEAD) // TokenCodec(dim).width)))


def _write(folder: Path, size: int, tokens_each: int, real: NDArray[np.float32], dim: int) -> None:
    codec = TokenCodec(dim)
    store, draw = LmdbTokens.open(folder, codec, real.shape[1]), np.random.default_rng(0)
    data = draw.integers(0, 256, (_BATCH * tokens_each, codec.width), np.uint8)
    for start in range(0, size, _BATCH):
        rows = np.arange(start, min(start + _BATCH, size), dtype=np.int64)
        part = slice(0, len(rows) * tokens_each)
        packed = PackedTokens(data[part], np.arange(len(rows) + 1, dtype=np.int64) * tokens_each, codec)
        store.put(rows, packed, _perturbed(real[rows % len(real)], draw))
    store.close()


def _perturbed(vectors: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    moved = vectors + _NOISE / vectors.shape[1] ** 0.5 * draw.standard_normal(vectors.shape, np.float32)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def _chosen(size: int, tokens_each: int, times: int, seed: int) -> list[Rows]:
    """Random rows whose tokens are as many as those of 100 real passages."""
    draw, each = np.random.default_rng(seed), max(1, _CANDIDATES * _TOKENS // tokens_each)
    return [np.sort(draw.choice(size, min(each, size), replace=False)).astype(np.int64) for _ in range(times)]


def _measured(store: LmdbTokens, size: int, tokens_each: int, asked: list[NDArray[np.float32]]) -> dict[str, Any]:
    matrix, draw = ResidentMatrix(len(asked[0]), store.pooled), np.random.default_rng(1).random(size)
    masks = {name: draw < share for name, share in _SHARES.items()}
    say("reading the vectors into the scan")
    matrix.search(asked[0], _CANDIDATES, masks["all"])
    chosen = _chosen(size, tokens_each, len(asked), seed=2)
    for rows in chosen:
        store.gather(rows)  # into memory
    systems: dict[str, Any] = {
        f"scan, {name}": lambda at, mask=mask: matrix.search(asked[at], _CANDIDATES, mask)
        for name, mask in masks.items()
    }
    systems["gather, in memory"] = lambda at: store.gather(chosen[at])
    taken = interleaved(systems, range(len(asked)))
    return {"latency_ms": percentiles(taken), "scan_bytes": matrix.nbytes, "rows_gathered": len(chosen[0])}


def _cold(folder: Path, size: int, tokens_each: int, dim: int, dense_dim: int) -> dict[str, dict[str, float]]:
    """Gathering what the system holds no page of: from the disk."""
    if not hasattr(os, "posix_fadvise"):
        say("this system cannot be asked to forget a file: no cold gathering")
        return {}
    for path in folder.glob("*.mdb"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = LmdbTokens.open(folder, TokenCodec(dim), dense_dim)
    try:
        chosen = _chosen(size, tokens_each, _COLD + 1, seed=3)
        taken = interleaved({"gather, from the disk": lambda rows: store.gather(rows)}, chosen[1:])
    finally:
        store.close()
    return percentiles({name: each[1:] for name, each in taken.items()})


# ---------------------------------------------------------------- what is not measured


def _projected(curve: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Stages of a search at `size`, along the line through the two largest sizes that were measured."""
    (small, few), (large, many) = list(curve["passages"].items())[-2:]

    def along(low: float, high: float) -> float:
        return max(high, high + (high - low) * (size - many) / max(1, many - few))

    stages = {
        stage: along(curve["stages_ms"][small].get(stage, 0.0), taken)
        for stage, taken in curve["stages_ms"][large].items()
    }
    p50 = {name: curve["latency_ms"][name]["p50"] for name in (small, large)}
    token_bytes = curve["bytes"][large]["tokens"] * size / max(1, many)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "projected_ms": {"search": along(p50[small], p50[large]), **stages},
        "projected_token_bytes": token_bytes,
        "memory_bytes": memory,
        "breaks": _breaks(many, token_bytes / size, memory, p50[small], p50[large], few),
    }


def _breaks(many: int, bytes_each: float, memory: int, low: float, high: float, few: int) -> dict[str, int]:
    """Passages at which a limit is reached: the smallest is what breaks first."""
    slope = max((high - low) / max(1, many - few), 1e-9)
    return {
        "the token store outgrows the machine's memory": int(memory / bytes_each),
        "a search takes twice as long as at the largest size measured": int(many + high / slope),
    }
