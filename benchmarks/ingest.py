"""How long documents take to add: a collection, the same again, and beside langchain-chroma's `add_texts`.

Beside langchain-chroma, both get the same texts of about 220 tokens, a batch each in turn: real passages that fill
the product's longest passage, so that both make as many vectors of as much text.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted
from benchmarks.rivals import chroma_store
from benchmarks.timing import interleaved, percentiles, ratio
from lir_agents import AddReport, Document, LateInteractionIndex
from lir_agents.evaluation import Dataset

SETS = ("mtrag_clapnq",)
_DOCUMENTS = 10_000
_HELD = 10_000
_LONG = 190
_BATCH = 64
_ROUNDS = 8


def run(bench: Bench) -> None:
    """Into indexes that are thrown away; two files."""
    if bench.standing("ingest/passages") is None:
        bench.write("ingest/passages", _beside_chroma(bench))
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


# ---------------------------------------------------------------- beside langchain-chroma


def _beside_chroma(bench: Bench) -> dict[str, Any]:
    rounds = min(_ROUNDS, bench.limit or _ROUNDS)
    texts, tokens = _long_texts(bench, (rounds + 1) * _BATCH)
    size = max(1, len(texts) // (rounds + 1))
    batches = [texts[at : at + size] for at in range(0, size * (rounds + 1), size)]
    say(f"{len(batches)} batches of {size} passages of {tokens:.0f} tokens")
    with tempfile.TemporaryDirectory(dir=bench.indexes, ignore_cleanup_errors=True) as folder:
        store = chroma_store(Path(folder) / "chroma")
        with LateInteractionIndex.open(Path(folder) / "ingest.lir", access="open") as index:
            systems = {
                "index.add": lambda at: _add(index, batches[at], at),
                "langchain-chroma": lambda at: store.add_texts(batches[at]),
            }
            taken = interleaved(systems, range(len(batches)))
            held = index.stats()["live_passages"]
    kept = {name: each[1:] for name, each in taken.items()}  # the first batch was the first call, too
    return {
        "passages": size * len(batches),
        "passages_in_the_index": held,
        "tokens": tokens,
        "batch": size,
        "batch_ms": percentiles(kept),
        "passages_per_s": {name: size / one["p50"] * 1000 for name, one in percentiles(kept).items()},
        "langchain-chroma against index.add": ratio(kept, "langchain-chroma", "index.add"),
    }


def _add(index: LateInteractionIndex, texts: list[str], at: int) -> None:
    index.add([Document(text, id=f"{at}/{i}") for i, text in enumerate(texts)])


def _long_texts(bench: Bench, count: int) -> tuple[list[str], float]:
    """Real passages of nearly as many tokens as one may have, and how many they have on average."""
    with mixed(bench, passages_wanted(bench, _HELD)) as index:
        rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
        lengths = index.rooms.tokens.gather(rows[: 20 * count]).lengths
        order = np.argsort(-lengths, kind="stable") if bench.limit else np.flatnonzero(lengths >= _LONG)
        chosen = order[:count]
        return [one.text for one in index.rooms.catalog.passages(rows[chosen])], float(lengths[chosen].mean())
