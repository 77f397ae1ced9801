"""What one byte per dimension costs in quality and saves in space, against float32 token vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, altered, as_system, say, searcher
from lir_agents import LateInteractionIndex
from lir_agents.arrays import PackedTokens, Rows
from lir_agents.evaluation import evaluate
from lir_agents.graph.rooms import Rooms
from lir_agents.ingest.outline import Outline
from lir_agents.ranking.quantise import pack
from lir_agents.types import Passage

SETS = ("med", "cranfield")


class Float32Tokens:
    """A token store that reads exact vectors from memory; everything else is the index's own store's."""

    def __init__(self, rooms: Rooms, matrices: Mapping[int, NDArray[np.float32]]) -> None:
        self._matrices = matrices
        self._nothing = np.zeros((0, rooms.encoder.token_dim), np.float32)
        self.pooled = rooms.tokens.pooled

    def batches(self, rows: Rows, **_: int) -> Iterator[PackedTokens]:
        """As `LmdbTokens.batches`, in float32 and in one part; how they are cut saves time and nothing else."""
        yield pack([self._matrices.get(row, self._nothing) for row in rows.tolist()], quantise=False)


def run(bench: Bench) -> None:
    """The same search over both; one file a collection."""
    for name in bench.chosen(SETS):
        if bench.standing(f"storage/{name}") is None:
            bench.write(f"storage/{name}", _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    dataset = bench.dataset(name)
    with bench.index(dataset) as index:
        say(f"{name}: encoding {index.stats()['live_passages']:,} passages in float32")
        matrices = _encoded(index)
        exact = searcher(altered(index, tokens=Float32Tokens(index.rooms, matrices)))
        experiment = evaluate(dataset, {"int8": as_system(index.search), "float32": as_system(exact)})
        int8_bytes = index.rooms.tokens.size_bytes()
        pooled = 4 * len(matrices) * index.rooms.encoder.dense_dim
    float_bytes = sum(matrix.nbytes for matrix in matrices.values()) + pooled
    means = {system: result.metrics["nDCG@10"] for system, result in experiment.systems.items()}
    return {
        "dataset": dataset.name,
        "queries": len(dataset.queries),
        "passages": len(matrices),
        "nDCG@10": means,
        "quality_ratio": means["int8"] / means["float32"],
        "bytes": {"int8": int8_bytes, "float32": float_bytes},
        "bytes_ratio": int8_bytes / float_bytes,
    }


def _encoded(index: LateInteractionIndex) -> dict[int, NDArray[np.float32]]:
    rooms = index.rooms
    rows = np.flatnonzero(rooms.catalog.live()).astype(np.int64)
    texts = [_text(rooms, passage) for passage in rooms.catalog.passages(rows)]
    numbers = rows.tolist()
    return {numbers[at]: encoding.tokens for at, encoding in rooms.encoder.encode_documents(texts)}


def _text(rooms: Rooms, passage: Passage) -> str:
    """What was encoded for a passage."""
    document = rooms.catalog.document(passage.document_id, passage.version)
    headings = Outline.of(document.text).above(passage.start) if document else ()
    return rooms.composer.compose(passage.title, headings, passage.text).text
