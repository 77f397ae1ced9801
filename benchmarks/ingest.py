"""How long documents take to add, and how long the same ones take when they come again unchanged."""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, say
from lir_agents import AddReport, Document, LateInteractionIndex
from lir_agents.evaluation import Dataset

SETS = ("mtrag_clapnq",)
_DOCUMENTS = 10_000


def run(bench: Bench) -> None:
    """Into an index of its own, which is thrown away; one file."""
    for name in bench.chosen(SETS):
        if bench.standing(f"ingest/{name}") is None:
            bench.write(f"ingest/{name}", _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    dataset = Dataset.load(bench.data / name)
    documents = list(islice(dataset.documents(), bench.limit or _DOCUMENTS))
    say(f"{name}: adding {len(documents):,} documents twice")
    bench.indexes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bench.indexes, ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "ingest.lir"
        with LateInteractionIndex.open(path, access="open") as index:
            index.search("a first search loads the model")
            first_s, first = _timed(index, documents)
            again_s, again = _timed(index, documents)
            passages = index.stats()["live_passages"]
    return {
        "dataset": dataset.name,
        "documents": len(documents),
        "passages": passages,
        "add_s": first_s,
        "add_again_s": again_s,
        "ratio": again_s / first_s,
        "documents_per_s": len(documents) / first_s,
        "added": first.added,
        "unchanged": again.unchanged,
    }


def _timed(index: LateInteractionIndex, documents: list[Document]) -> tuple[float, AddReport]:
    start = time.perf_counter()
    report = index.add(documents)
    return time.perf_counter() - start, report
