"""Real stores in a directory, and an encoder cheap enough to ingest with hundreds of times.

Run as a program, it ingests and dies without a word at the n-th write to a store:
``python -m tests.ingest_rooms DIRECTORY N``.
"""

import hashlib
import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lir_agents import Document
from lir_agents.arrays import Encoding
from lir_agents.codes import TokenCodec
from lir_agents.config import IngestSettings
from lir_agents.ingest.compose import Budget, Composer
from lir_agents.ingest.pipeline import Ingestor
from lir_agents.ingest.reconcile import reconcile
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.lexical import LmdbLexical
from lir_agents.stores.tokens import LmdbTokens
from lir_agents.stores.vectors import ChromaVectors

SETTINGS = IngestSettings(passage_tokens=30, title_tokens=8, batch_documents=4)


class HashEncoder:
    """A vector per word, made from the word's hash: equal texts, equal vectors, and no model."""

    name, fingerprint, dense_dim, token_dim, max_tokens = "hash", "hash", 16, 16, 64

    def __init__(self):
        self.encoded = []

    def token_spans(self, text):
        return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]

    def encode_documents(self, texts):
        for i in reversed(range(len(texts))):
            self.encoded.append(texts[i])
            spans = np.array(self.token_spans(texts[i]) or [(0, 0)], np.int32)
            tokens = np.stack([_vector(texts[i][a:b]) for a, b in spans])
            pooled = tokens.mean(axis=0)
            yield i, Encoding(pooled / np.linalg.norm(pooled), tokens, spans)

    def encode_queries(self, queries):
        return [encoding for _, encoding in self.encode_documents([query.text for query in queries])]


def _vector(word):
    seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
    return vector / np.linalg.norm(vector)


class Rooms:
    """The stores of one directory with an ingestor over them."""

    def __init__(self, path, encoder, *, settings=SETTINGS, access_key=lambda document: "open", committing=None):
        path.mkdir(exist_ok=True)
        self.path, self.encoder = path, encoder
        self.catalog = Catalog.open(path / "catalog.sqlite")
        self.tokens = LmdbTokens.open(path / "tokens", TokenCodec(encoder.token_dim), encoder.dense_dim)
        self.lexical = LmdbLexical.open(path / "lexical")
        self.vectors = ChromaVectors.open(path / "chroma", encoder.dense_dim, source=self.tokens.pooled)
        self.composer = Composer(encoder.token_spans, title_tokens=Budget.of(settings, encoder).title)
        self.ingestor = Ingestor(
            catalog=self.catalog,
            encoder=encoder,
            tokens=self.tokens,
            vectors=self.vectors,
            lexical=self.lexical,
            access_key=access_key,
            composer=self.composer,
            settings=settings,
            committing=committing,
        )

    def reconcile(self):
        return reconcile(
            self.catalog, self.tokens, self.vectors, self.lexical, encoder=self.encoder, composer=self.composer
        )

    def close(self):
        for store in (self.vectors, self.lexical, self.tokens, self.catalog):
            store.close()

    def contents(self):
        """What the index holds, by passage rather than by row: comparable between two indexes."""
        rows = np.flatnonzero(self.catalog.live()).astype(np.int64)
        packed, pooled = self.tokens.gather(rows), self.tokens.pooled(rows)
        assert self.vectors.rows().tolist() == rows.tolist()
        assert set(rows.tolist()) <= set(self.lexical.rows().tolist())
        assert self.tokens.rows().tolist() == self.lexical.rows().tolist()
        assert self.lexical.rows().tolist() == np.flatnonzero(self.catalog.snapshot().committed).tolist()
        found = {}
        for i, passage in enumerate(self.catalog.passages(rows)):
            part = packed.data[packed.offsets[i] : packed.offsets[i + 1]]
            assert len(part)
            words = self.lexical.scores(
                [(term, 1.0) for term in self.lexical.analyze(passage.text)], self.catalog.live()
            )
            place = (passage.document_id, passage.ordinal)
            found[place] = (passage.text, part.tobytes(), pooled[i].tobytes(), float(words[passage.row]))
        return found


@contextmanager
def rooms(path, encoder=None, **options):
    opened = Rooms(Path(path), encoder or HashEncoder(), **options)
    try:
        yield opened
    finally:
        opened.close()


def corpus(count=10, edition=1):
    words = ["leave", "pay", "pension", "office", "travel", "health", "insurance", "holiday", "manager", "form"]
    for i in range(count):
        body = " ".join(
            f"{words[(i * 7 + j) % len(words)]} {words[(i + j * j) % len(words)]}" for j in range(25 + 5 * i)
        )
        changed = f" Edition {edition}." if i % 3 == 0 else ""
        yield Document(
            id=f"doc/{i}",
            title=f"Document {i}",
            text=f"# Part {i}\n\n{body}.\n\n## Annex\n\n{body}{changed}",
            metadata={"n": i},
        )


def _die_at(opened, point):
    """Kills this process right before the n-th write to any store, counted over all of them."""
    left = [point]

    def guard(write):
        def guarded(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*arguments, **named)

        return guarded

    for store, names in (
        (opened.catalog, ("stage", "commit", "discard_pending", "retire", "erase", "compact")),
        (opened.tokens, ("put", "delete", "compact")),
        (opened.lexical, ("add", "delete", "compact")),
        (opened.vectors, ("upsert", "delete", "rebuild")),
    ):
        for name in names:
            setattr(store, name, guard(getattr(store, name)))


if __name__ == "__main__":
    with rooms(sys.argv[1]) as mine:
        _die_at(mine, int(sys.argv[2]))
        mine.ingestor.add(corpus(edition=1))
        mine.ingestor.add(corpus(edition=2))
        mine.ingestor.delete(["doc/4"])
