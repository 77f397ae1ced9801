"""What governing costs: the access check, and the audit log. What is compared takes turns on one machine."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, altered, say, searcher
from benchmarks.timing import interleaved, percentiles
from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.audit import AuditLog
from lir_agents.evaluation import Dataset

SETS = ("mtrag_fiqa",)
_PASSAGES = 14_000
_CLASSES = 200
_GROUPS = 1_500
_QUERIES = 150
_BATCH = 256
_ROUNDS = 3


def run(bench: Bench) -> None:
    """Two files: access, audit."""
    for name in bench.chosen(SETS):
        if all(bench.standing(f"governing/{what}") is not None for what in ("access", "audit")):
            continue
        dataset = Dataset.load(bench.data / name)
        queries = [query.text for query in dataset.queries[: bench.limit or _QUERIES]]
        with ExitStack() as opened:
            free = opened.enter_context(_index(bench, dataset, governed=False))
            governed = opened.enter_context(_index(bench, dataset, governed=True))
            bench.write("governing/access", _access(free, governed, queries))
            bench.write("governing/audit", _audit(free, queries))


# ---------------------------------------------------------------- indexes


@contextmanager
def _index(bench: Bench, dataset: Dataset, *, governed: bool) -> Iterator[LateInteractionIndex]:
    """The first documents of a collection, as many as make 14,000 passages; with ACLs of 200 kinds, or none."""
    path = bench.indexes / f"governing.{'acl' if governed else 'open'}.lir"
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = _PASSAGES if bench.limit is None else 20 * bench.limit
    with LateInteractionIndex.open(path, access="acl" if governed else "open") as index:
        documents = iter(_with_acl(dataset.documents()) if governed else dataset.documents())
        say(f"{dataset.name}: {path.name}, {wanted:,} passages")
        while index.stats()["live_passages"] < wanted and (batch := list(islice(documents, _BATCH))):
            index.add(batch)
        yield index


def _with_acl(documents: Iterable[Document]) -> Iterator[Document]:
    return (replace(document, acl=[f"group:{at % _CLASSES}"]) for at, document in enumerate(documents))


def _member(groups: Iterable[int]) -> Principal:
    return Principal("bench", groups=[f"group:{number}" for number in groups])


# ---------------------------------------------------------------- access


def _access(free: LateInteractionIndex, governed: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    """One search with access off, and on for somebody who may read all, half, or all through 1,500 groups."""
    everybody, half, many = _member(range(_CLASSES)), _member(range(0, _CLASSES, 2)), _member(range(_GROUPS))
    taken = interleaved(
        {
            "off": lambda query: free.search(query, k=10),
            "on, may read all": lambda query: governed.search(query, k=10, principal=everybody),
            "on, may read half": lambda query: governed.search(query, k=10, principal=half),
            "on, 1,500 groups": lambda query: governed.search(query, k=10, principal=many),
        },
        [query for query in queries for _ in range(_ROUNDS)],
    )
    measured = percentiles(taken)
    classes = len(governed.rooms.catalog.access_classes())
    passages = free.stats()["live_passages"]
    assert passages == governed.stats()["live_passages"], "both hold the same"
    return {
        "passages": passages,
        "access_classes": classes,
        "searches": len(queries) * _ROUNDS,
        "latency_ms": measured,
        "ratio_of_p50": {name: one["p50"] / measured["off"]["p50"] for name, one in measured.items()},
    }


# ---------------------------------------------------------------- audit


class _NoLog:
    """An audit log that records nothing: what a search costs without one. Measurements alone may do so."""

    def append(self, *_: Any) -> str:
        return "0" * 32

    def append_many(self, events: Iterable[Any]) -> list[str]:
        return ["0" * 32 for _ in events]


class _Timed:
    """An audit log with the milliseconds of each of its appends."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self.taken: list[float] = []

    def append_many(self, events: Iterable[Any]) -> list[str]:
        start = time.perf_counter()
        ids = self._log.append_many(events)
        self.taken.append((time.perf_counter() - start) * 1000)
        return ids


def _audit(index: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    """The same searches without a log, with the log as it is by default, and with one that waits for the disk."""
    before = _sync_ms(index.path)
    with tempfile.TemporaryDirectory(dir=index.path.parent) as folder, ExitStack() as opened:
        logs = {
            "default": _Timed(opened.enter_context(AuditLog.open(Path(folder) / "default.sqlite"))),
            "disk": _Timed(opened.enter_context(AuditLog.open(Path(folder) / "disk.sqlite", durability="disk"))),
        }
        systems: dict[str, Callable[[str], object]] = {"none": _asking(index, _NoLog())}
        systems |= {name: _asking(index, log) for name, log in logs.items()}
        taken = interleaved(systems, [query for query in queries for _ in range(_ROUNDS)])
    added = {name: _added([a - b for a, b in zip(taken[name], taken["none"], strict=True)]) for name in logs}
    return {
        "searches": len(queries) * _ROUNDS,
        "latency_ms": percentiles(taken),
        "append_ms": percentiles({name: log.taken for name, log in logs.items()}),
        "added_ms": added,
        "load_average": os.getloadavg()[0],
        "fdatasync_ms": {"before": before, "after": _sync_ms(index.path)},
    }


def _added(differences: Sequence[float]) -> dict[str, float]:
    """Median of the paired differences, and its 95 % interval by order statistics: searches vary by more."""
    ordered, half = sorted(differences), 0.98 * len(differences) ** 0.5
    low, high = (min(max(round(len(ordered) / 2 + side), 0), len(ordered) - 1) for side in (-half, half))
    return {"p50": statistics.median(ordered), "low": ordered[low], "high": ordered[high]}


def _asking(index: LateInteractionIndex, log: Any) -> Callable[[str], object]:
    search = searcher(altered(index, audit=log))
    return lambda query: search(query, k=10)


def _sync_ms(folder: Path, *, times: int = 50) -> float:
    """Milliseconds p50 of one bare synchronisation of 16 KB on the disk of the index."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        taken = []
        for _ in range(times):
            file.seek(0)
            file.write(os.urandom(16 << 10))
            file.flush()
            start = time.perf_counter()
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)
