"""What a way to store token vectors costs in quality and takes on disk, against float32 token vectors.

Every passage is encoded once; each setting of `SETTINGS` makes an index out of those encodings, and the same search
runs over all of them and over the float32 vectors themselves. Only the late-interaction signals differ.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, altered, as_system, say, searcher
from benchmarks.corpus import Borrowed
from lir_agents import LateInteractionIndex
from lir_agents.arrays import Encoding, PackedTokens, Rows
from lir_agents.config import Settings
from lir_agents.encoding.base import Encoder
from lir_agents.encoding.open import open_encoder
from lir_agents.evaluation import Dataset, System, evaluate
from lir_agents.graph.rooms import Rooms
from lir_agents.ingest.outline import Outline
from lir_agents.types import Passage

SETS = ("med", "cranfield", "cisi")
"""Small ones: their float32 vectors are held in memory, 1.5 KB a token."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "compact": {"ingest": {"token_bits": 2}},
    "precise": {"ingest": {"token_bits": 8}},
}
"""Ways to store token vectors, as `Settings(**…)`."""


def run(bench: Bench) -> None:
    """One file a collection."""
    for name in bench.chosen(SETS):
        if bench.standing(f"storage/{name}") is None:
            bench.write(f"storage/{name}", _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    dataset = bench.dataset(name)
    bench.indexes.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=bench.indexes)))
        once = Once(open_encoder())
        say(f"{name}: encoding")
        made = {
            setting: opened.enter_context(_made(folder / f"{setting}.lir", dataset, once, given))
            for setting, given in SETTINGS.items()
        }
        first = next(iter(made.values()))
        exact = searcher(altered(first, tokens=Float32Tokens(first.rooms, once)))
        systems: dict[str, System] = {setting: as_system(index.search) for setting, index in made.items()}
        experiment = evaluate(dataset, {"float32": as_system(exact)} | systems)
        passages = first.stats()["live_passages"]
        sizes = {setting: index.rooms.tokens.size_bytes() for setting, index in made.items()}
        tokens = _tokens(first)
        sizes["float32"] = 4 * (tokens * once.token_dim + passages * once.dense_dim)
    means = {system: result.metrics["nDCG@10"] for system, result in experiment.systems.items()}
    return {
        "dataset": dataset.name,
        "queries": len(dataset.queries),
        "passages": passages,
        "tokens": tokens,
        "nDCG@10": means,
        "quality_ratio": {setting: means[setting] / means["float32"] for setting in made},
        "bytes": sizes,
        "bytes_per_token": {system: size / tokens for system, size in sizes.items()},
    }


@contextmanager
def _made(path: Path, dataset: Dataset, encoder: Once, given: Mapping[str, Any]) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(path, encoder=encoder, settings=Settings(**given)) as index:
        index.add(dataset.documents())
        yield index


def _tokens(index: LateInteractionIndex) -> int:
    rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
    return int(
        sum(index.rooms.tokens.gather(rows[at : at + 1000]).lengths.sum() for at in range(0, len(rows), 1000))
    )


# ---------------------------------------------------------------- one encoding for all


class Once(Borrowed):
    """The encoder, which encodes a text once and keeps what came out, in float32."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, [self])
        self._kept: dict[str, Encoding] = {}

    def get(self, hashes: Sequence[str]) -> dict[str, Encoding]:
        """What was encoded before, by the hash of its text."""
        return {key: self._kept[key] for key in hashes if key in self._kept}

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for i, encoding in super().encode_documents(texts):
            self._kept[_digest(texts[i])] = encoding
            yield i, encoding


class Float32Tokens:
    """A token store that reads exact vectors from memory; everything else is the index's own store's."""

    def __init__(self, rooms: Rooms, once: Once) -> None:
        rows = np.flatnonzero(rooms.catalog.live()).astype(np.int64)
        texts = [_text(rooms, passage) for passage in rooms.catalog.passages(rows)]
        kept = once.get([_digest(text) for text in texts])
        self._matrices = {row: kept[_digest(text)].tokens for row, text in zip(rows.tolist(), texts, strict=True)}
        self._nothing = np.zeros((0, once.token_dim), np.float32)
        self.pooled = rooms.tokens.pooled

    @contextmanager
    def lent(self, rows: Rows) -> Iterator[PackedTokens]:
        """As the index's own store, in float32."""
        yield PackedTokens.pack([self._matrices.get(row, self._nothing) for row in rows.tolist()], None)


def _text(rooms: Rooms, passage: Passage) -> str:
    """What was encoded for a passage."""
    document = rooms.catalog.document(passage.document_id, passage.version)
    headings = Outline.of(document.text).above(passage.start) if document else ()
    return rooms.composer.compose(passage.title, headings, passage.text).text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
