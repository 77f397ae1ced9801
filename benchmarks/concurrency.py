"""Many questions at a time: from eight threads, in batches, and in two processes that share nothing.

What is compared takes turns, round by round, over the same questions; a ratio comes from each round.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from lir_agents import LateInteractionIndex

PASSAGES = 10_000
THREADS = 8
BATCHES = (2, 4, 8, 16)
_QUERIES = 200
_ROUNDS = 9
_PROCESS = """
import json, sys, time
from lir_agents import LateInteractionIndex
queries = json.load(open(sys.argv[2]))
with LateInteractionIndex.open(sys.argv[1], create=False) as index:
    for query in queries:
        index.search(query, k=10)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for query in queries:
            index.search(query, k=10)
        print(len(queries) / (time.perf_counter() - start), flush=True)
"""
"""Searches a second, each time a line is read."""
_ROOT = Path(__file__).parent.parent


def run(bench: Bench) -> None:
    """Three files: threads, batches, processes."""
    wanted = {name for name in ("threads", "batches", "processes") if bench.standing(f"concurrency/{name}") is None}
    if not wanted:
        return
    queries, rounds = questions(bench, _QUERIES), bench.limit or _ROUNDS
    with mixed(bench, passages_wanted(bench, PASSAGES)) as index:
        if "threads" in wanted:
            bench.write("concurrency/threads", _threads(index, queries, rounds))
        if "batches" in wanted:
            bench.write("concurrency/batches", _batches(index, queries, rounds))
    if "processes" in wanted:
        bench.write("concurrency/processes", _processes(index.path, queries, rounds))


def _threads(index: LateInteractionIndex, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    per_second: dict[int, list[float]] = {1: [], THREADS: []}
    waited: dict[int, list[float]] = {1: [], THREADS: []}
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(THREADS) as many:
        for pool in (one, many):
            _searches(index, pool, queries[:THREADS])  # what each thread sets up once is no part of it
        for at in range(rounds):
            for threads, pool in ((1, one), (THREADS, many))[:: 1 if at % 2 == 0 else -1]:
                taken, whole_s = _searches(index, pool, queries)
                waited[threads] += taken
                per_second[threads].append(len(queries) / whole_s)
    return {
        "passages": index.stats()["live_passages"],
        "threads": THREADS,
        "searches": len(queries) * rounds,
        "per_second": {str(threads): float(np.median(each)) for threads, each in per_second.items()},
        "latency_ms": {str(threads): _tail(each) for threads, each in waited.items()},
        "throughput": _gained(per_second[THREADS], per_second[1]),
        "p99 against p50": float(np.percentile(waited[THREADS], 99) / np.median(waited[THREADS])),
    }


def _searches(
    index: LateInteractionIndex, pool: ThreadPoolExecutor, queries: Sequence[str]
) -> tuple[list[float], float]:
    """Milliseconds of each search, and seconds of all together."""

    def search(query: str) -> float:
        start = time.perf_counter()
        index.search(query, k=10)
        return (time.perf_counter() - start) * 1000

    start = time.perf_counter()
    taken = list(pool.map(search, queries))
    return taken, time.perf_counter() - start


def _tail(taken: Sequence[float]) -> dict[str, float]:
    middle, most, last = np.percentile(taken, (50, 95, 99)).tolist()
    return {"p50": middle, "p95": most, "p99": last}


def _batches(index: LateInteractionIndex, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    """Batches of one thread, beside the same questions one by one."""

    def each() -> None:
        for query in queries:
            index.search(query, k=10)

    def of(size: int) -> Callable[[], None]:
        def asked() -> None:
            for start in range(0, len(queries), size):
                index.search_batch(queries[start : start + size], k=10)

        return asked

    ways: dict[int, Callable[[], None]] = {1: each} | {size: of(size) for size in BATCHES}
    per_second: dict[int, list[float]] = {size: [] for size in ways}
    for way in ways.values():
        way()
    for at in range(rounds):
        for size, way in list(ways.items())[:: 1 if at % 2 == 0 else -1]:
            start = time.perf_counter()
            way()
            per_second[size].append(len(queries) / (time.perf_counter() - start))
    return {
        "passages": index.stats()["live_passages"],
        "searches": len(queries) * rounds,
        "per_second": {str(size): float(np.median(found)) for size, found in per_second.items()},
        "throughput": {str(size): _gained(per_second[size], per_second[1]) for size in BATCHES},
    }


def _processes(path: Path, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    """Two processes, each with an index and a model of its own, beside one of them: what the machine has to give.

    As they are, and each bound to a processor of its own, with a single thread for the encoder.
    """
    alone = {"LIR_ENCODER__THREADS": "1", "OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {"searches": len(queries) * rounds}
    processors = _two_processors()
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        (folder / "queries.json").write_text(json.dumps(list(queries)))
        say("four processes, each over a copy of the index")
        as_they_are, single = (
            [
                started.enter_context(_process(path, folder, f"{name}{at}", about, {processor} if about else None))
                for at, processor in enumerate(processors)
            ]
            for name, about in (("free", {}), ("single", alone))
        )
        rates: dict[str, list[float]] = {"one": [], "two": [], "two, single threads": []}
        for _ in range(rounds):
            rates["one"].append(_rate(as_they_are[:1]))
            rates["two"].append(_rate(as_they_are))
            rates["two, single threads"].append(_rate(single))
    found["per_second"] = {name: float(np.median(each)) for name, each in rates.items()}
    found["throughput"] = {name: _gained(each, rates["one"]) for name, each in rates.items() if name != "one"}
    return found


@contextmanager
def _process(
    path: Path, folder: Path, name: str, about: dict[str, str], processors: set[int] | None
) -> Iterator[subprocess.Popen[str]]:
    shutil.copytree(path, folder / name)
    held = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors or held)  # a child begins with what its parent has
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(folder / name), str(folder / "queries.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env={**os.environ, **about},
        )
    finally:
        os.sched_setaffinity(0, held)
    with process:
        try:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a process that searches did not start: status {process.wait()}")
            yield process
        finally:
            process.kill()


def _two_processors() -> list[int]:
    """Two that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError("two processes side by side want two processors")
    return allowed[:2]


def _rate(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Searches a second of all processes at once."""
    for process in processes:
        print(file=process.stdin, flush=True)
    told = [process.stdout.readline() for process in processes if process.stdout]
    if not all(told):
        raise RuntimeError("a process that searches has ended")
    return sum(map(float, told))


def _gained(many: Sequence[float], one: Sequence[float]) -> dict[str, float]:
    gained = np.asarray(many) / np.asarray(one)
    low, middle, high = np.percentile(gained, (25, 50, 75)).tolist()
    return {"ratio": middle, "low": low, "high": high}
