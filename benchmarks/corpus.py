"""One corpus of real passages in any size up to 109,000: the documents of all collections, shuffled.

Every passage has been encoded for its own collection's index already, so an index of the mixture takes the vectors
from there (`Borrowed`): equal text, equal vectors. What is added is what the product would have added; only the
time of adding says nothing. Sizes are nested: the first documents of the larger corpus are the smaller one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.bench import Bench, say
from lir_agents import Document, LateInteractionIndex
from lir_agents.arrays import Encoding
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.open import open_encoder
from lir_agents.evaluation import Dataset
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.tokens import LmdbTokens

SETS = (
    "mtrag_clapnq",
    "mtrag_fiqa",
    "mtrag_cloud",
    "mtrag_govt",
    "scifact",
    "inazuma_acl",
    "beam_100k",
    "nodejs_versions",
    "locomo",
    "cisi",
    "cranfield",
    "med",
    "rag_multi_corpus",
)
ASKED = ("mtrag_clapnq", "mtrag_fiqa", "scifact")
"""Whose questions are asked of the mixture."""

CLASSES = 1000
"""Access classes of a governed mixture; each document has one."""


def passages_wanted(bench: Bench, size: int) -> int:
    """So many passages, or so many thousandths times the limit: a short run keeps the sizes' proportions."""
    return size if bench.limit is None else max(1, size * bench.limit // 1000)


def questions(bench: Bench, most: int) -> list[str]:
    """The first questions of several collections, in turn."""
    loaded = [Dataset.load(bench.data / name).queries for name in bench.chosen(ASKED)]
    turns = [query.text for row in zip(*loaded, strict=False) for query in row]
    return turns[: min(most, bench.limit or most)]


@contextmanager
def mixed(bench: Bench, passages: int, *, governed: bool = False) -> Iterator[LateInteractionIndex]:
    """The open index of the mixture's first passages, built once.

    Args:
        bench: Where the collections and their indexes are.
        passages: How many at least; all there are where there are fewer.
        governed: Whether document i may be read by the group `i % CLASSES` only.
    """
    path = bench.indexes / f"mixed.{passages}{'.acl' if governed else ''}.lir"
    access = "acl" if governed else "open"
    if not _complete(path, passages):
        _build(bench, path, passages, governed=governed)
    with LateInteractionIndex.open(path, access=access) as index:
        yield index


def _mark(path: Path) -> Path:
    return path.with_suffix(".done")


def _complete(path: Path, passages: int) -> bool:
    return path.is_dir() and _mark(path).is_file()


def _build(bench: Bench, path: Path, passages: int, *, governed: bool) -> None:
    names = bench.chosen(SETS)
    documents = [one for name in names for one in _documents(bench, name)]
    random.Random(0).shuffle(documents)
    say(f"{path.name}: {passages:,} passages of {len(documents):,} documents")
    with ExitStack() as opened:
        sources = [opened.enter_context(_source(bench, name)) for name in names]
        encoder = Borrowed(open_encoder(), sources)
        index = opened.enter_context(
            LateInteractionIndex.open(path, access="acl" if governed else "open", encoder=encoder)
        )
        batch = max(1, min(256, passages // 40))
        rest = islice(enumerate(documents), index.stats()["documents"], None)
        while index.stats()["live_passages"] < passages and (some := list(islice(rest, batch))):
            index.add([replace(one, acl=[f"group:{at % CLASSES}"] if governed else None) for at, one in some])
        held = index.stats()["live_passages"]
    say(f"{path.name}: {held:,} passages, {encoder.encoded:,} of them encoded here")
    _mark(path).touch()


def _documents(bench: Bench, name: str) -> Iterator[Document]:
    for document in Dataset.load(bench.data / name).documents():
        if document.text.strip():
            yield Document(
                document.text, id=f"{name}/{document.id}", title=document.title, metadata={"collection": name}
            )


# ---------------------------------------------------------------- vectors that are there already


class Encoded(Protocol):
    """What knows vectors of texts."""

    def get(self, hashes: Sequence[str]) -> dict[str, Encoding]:
        """Of these sha256 digests of texts, the ones that it knows."""


class Source:
    """The token vectors of a collection's index, by the hash of what was encoded."""

    def __init__(self, catalog: Catalog, tokens: LmdbTokens) -> None:
        self._catalog, self._tokens = catalog, tokens

    def get(self, hashes: Sequence[str]) -> dict[str, Encoding]:
        known = self._catalog.reusable(hashes)
        rows = np.fromiter(known.values(), np.int64, len(known))
        if not known:
            return {}
        packed, pooled = self._tokens.gather(rows), self._tokens.pooled(rows)
        found = {}
        for i, key in enumerate(known):
            part = slice(*packed.offsets[i : i + 2].tolist())
            vectors = self._tokens.codec.decode(np.asarray(packed.data[part], np.uint8))
            found[key] = Encoding(pooled[i], vectors, np.zeros((len(vectors), 2), np.int32))
        return found


@contextmanager
def _source(bench: Bench, name: str) -> Iterator[Source]:
    with bench.index(Dataset.load(bench.data / name)) as index:  # makes it where it is not there
        widths = index.rooms.tokens.codec, index.rooms.encoder.dense_dim
    layout = IndexLayout(bench.indexes / f"{name}.lir")
    tokens = LmdbTokens.open(layout.tokens, *widths, read_only=True)
    with Catalog.open(layout.catalog, create=False) as catalog:
        try:
            yield Source(catalog, tokens)
        finally:
            tokens.close()


class Borrowed:
    """The encoder, whose documents come from indexes that hold them encoded; what none holds it encodes itself."""

    def __init__(self, encoder: Encoder, sources: Sequence[Encoded]) -> None:
        self._encoder, self._sources = encoder, sources
        self.name, self.fingerprint = encoder.name, encoder.fingerprint
        self.dense_dim, self.token_dim = encoder.dense_dim, encoder.token_dim
        self.max_tokens, self.token_spans = encoder.max_tokens, encoder.token_spans
        self.encoded = 0

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        return self._encoder.encode_queries(queries)

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        found: dict[str, Encoding] = {}
        for source in self._sources:
            found |= source.get([key for key in hashes if key not in found])
        yield from ((i, found[key]) for i, key in enumerate(hashes) if key in found)
        missing = [i for i, key in enumerate(hashes) if key not in found]
        self.encoded += len(missing)
        for at, encoding in self._encoder.encode_documents([texts[i] for i in missing]):
            yield missing[at], encoding
