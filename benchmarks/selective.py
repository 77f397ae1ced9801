"""Access that lets less and less through 100,000 passages: milliseconds beside no access control, and recall.

Documents fall into 1,000 access classes; who holds 500, 100, 10 or 1 of the groups reads 50 %, 10 %, 1 % or .1 %.
Recall is that of the first stage's dense list against every readable passage's vector, multiplied out in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.corpus import CLASSES, mixed, passages_wanted, questions
from benchmarks.timing import interleaved, percentiles, ratios
from lir_agents import LateInteractionIndex, Principal
from lir_agents.arrays import RowMask
from lir_agents.encoding.base import QueryText
from lir_agents.graph.request import checked_request
from lir_agents.graph.view import look_at

PASSAGES = 100_000
SHARES = {"50 %": 0.5, "10 %": 0.1, "1 %": 0.01, ".1 %": 0.001}
_QUERIES = 150
_DEPTH = 100


def run(bench: Bench) -> None:
    """Two files: latency, recall."""
    if all(bench.standing(f"selective/{what}") is not None for what in ("latency", "recall")):
        return
    size, queries = passages_wanted(bench, PASSAGES), questions(bench, _QUERIES)
    with mixed(bench, size) as free, mixed(bench, size, governed=True) as governed:
        bench.write("selective/latency", _latency(free, governed, queries))
        bench.write("selective/recall", _recall(free, governed, queries))


def _reader(share: float) -> Principal:
    return Principal("bench", groups=[f"group:{number}" for number in range(max(1, round(share * CLASSES)))])


def _latency(free: LateInteractionIndex, governed: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    systems: dict[str, Callable[[str], object]] = {"off": partial(free.search, k=10)}
    for name, share in SHARES.items():
        systems[name] = partial(governed.search, k=10, principal=_reader(share))
    interleaved(systems, queries)  # what is read is in memory from here on
    taken = interleaved(systems, queries)
    return {
        "passages": governed.stats()["live_passages"],
        "access_classes": len(governed.rooms.catalog.access_classes()),
        "readable": {name: int(mask.sum()) for name, mask in _readable(governed).items()},
        "searches": len(queries),
        "latency_ms": percentiles(taken),
        "against off": ratios(taken, "off"),
    }


def _recall(free: LateInteractionIndex, governed: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    (everything,) = _masks(free, {"off": None}).values()
    found = {"off": _recalled(free, everything, queries)}
    for name, mask in _readable(governed).items():
        found[name] = _recalled(governed, mask, queries)
    return {"passages": governed.stats()["live_passages"], "depth": _DEPTH, "recall": found}


def _readable(governed: LateInteractionIndex) -> dict[str, RowMask]:
    return _masks(governed, {name: _reader(share) for name, share in SHARES.items()})


def _masks(index: LateInteractionIndex, readers: Mapping[str, Principal | None]) -> dict[str, RowMask]:
    """What each may look at, by the product's own first step."""
    rooms = index.rooms
    request = checked_request({"query": "anything"}, rooms.settings.search)
    return {
        name: look_at(rooms, request, rooms.policy.authorize(reader, "search")).allowed
        for name, reader in readers.items()
    }


def _recalled(index: LateInteractionIndex, mask: RowMask, queries: Sequence[str]) -> float:
    """The share of the exact best that the store's search finds."""
    rows = np.flatnonzero(mask).astype(np.int64)
    if not len(rows):
        return 1.0
    vectors, shares = index.rooms.tokens.pooled(rows), []
    for encoding in index.rooms.encoder.encode_queries([QueryText(query) for query in queries]):
        exact = rows[np.argsort(-(vectors @ encoding.pooled), kind="stable")[:_DEPTH]]
        found, _ = index.rooms.vectors.search(encoding.pooled, _DEPTH, mask)
        shares.append(len(np.intersect1d(exact, found)) / len(exact))
    return float(np.mean(shares))
