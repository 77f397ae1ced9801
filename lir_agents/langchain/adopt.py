"""Takes the records of an existing Chroma collection into an index, with their vectors where it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from lir_agents.encoding.adopted import AdoptedEncoder
from lir_agents.encoding.asking import encoded_documents
from lir_agents.encoding.base import Encoder
from lir_agents.encoding.open import open_encoder
from lir_agents.encoding.vectors import unit
from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import InputError
from lir_agents.ingest.adapters import to_document
from lir_agents.ingest.compose import Budget, Composer
from lir_agents.ingest.normalise import normalise_text
from lir_agents.ingest.outline import Outline
from lir_agents.reports import AddReport, Failure

__all__ = ["adopt_collection", "adopted_encoder", "require_adoptable"]

_PAGE: Final = 512
_SAMPLE: Final = 8
_LEAST_COSINE: Final = 0.99
_THE_EMBEDDING: Final = "Pass the embedding that the collection was filled with."
_THE_EMBEDDING_OR_NONE: Final = (
    "Pass embedding=, the one that the collection was filled with, to keep its vectors, or reencode=True to leave "
    "them behind."
)


def adopted_encoder(
    embedding: Embeddings, *, encoder: str | Path | Encoder | None = None, name: str | None = None
) -> AdoptedEncoder:
    """The encoder of an index whose pooled vectors are another model's: what such an index is opened with.

    An index that `LateInteractionVectorStore.from_chroma` made with an `embedding` holds vectors of two models;
    open it elsewhere with ``LateInteractionIndex.open(path, encoder=adopted_encoder(embedding))``. Asks the
    embedding for one vector, to learn its width.

    Args:
        embedding: Embeds queries, and documents that bring no vector. Called from several threads at once.
        encoder: Gives the token vectors, as in `LateInteractionIndex.open`; None: the bundled model.
        name: Names the embedding for good: an index made under one name opens under no other. None: its class and
            the model that it names.

    Raises:
        InputError: It is no LangChain embedding, or `encoder` holds one already.
    """
    if not isinstance(embedding, Embeddings):
        raise InputError(f"is {type(embedding).__name__}", field="embedding", remedy="Pass a LangChain Embeddings.")
    base = open_encoder(encoder)
    if isinstance(base, AdoptedEncoder):
        raise InputError("holds an embedding already", field="encoder", remedy="Give one of the two.")
    return AdoptedEncoder(
        base,
        documents=embedding.embed_documents,
        query=embedding.embed_query,
        dense_dim=len(embedding.embed_query("How many numbers does a vector have?")),
        name=name or _name(embedding),
    )


def adopt_collection(
    index: LateInteractionIndex, collection: Any, *, acl: Sequence[str] | None = None, reencode: bool = False
) -> AddReport:
    """Adds every record of a collection as a document: same id, text and metadata; see `from_chroma`.

    The record's vector comes along where the index was opened with an `adopted_encoder`.

    Args:
        index: Open; may hold documents already.
        collection: A `chromadb` collection. It is read page by page and never written; leave it alone meanwhile.
        acl: Grants for records whose metadata names no "acl" of their own.
        reencode: Leave the vectors behind even so.

    Returns:
        Counts, and every record that could not be adopted with its reason.
    """
    encoder, composer = index.rooms.encoder, index.rooms.composer
    adopting = encoder if isinstance(encoder, AdoptedEncoder) and not reencode else None
    reports: list[AddReport] = []
    for records in _pages(collection, vectors=adopting is not None):
        given = [record.checked(adopting) for record in records]
        offered: dict[str, NDArray[np.float32]] = {}
        for record, one in zip(records, given, strict=True):
            key = None if isinstance(one, Failure) or record.vector is None else record.encoded_as(composer, acl)
            if key is not None and record.vector is not None:
                offered.setdefault(key, record.vector)
        with adopting.offering(offered) if adopting else nullcontext():
            reports.append(index.add(one if isinstance(one, Failure) else one.document(acl) for one in given))
    return AddReport(
        added=sum(report.added for report in reports),
        updated=sum(report.updated for report in reports),
        unchanged=sum(report.unchanged for report in reports),
        failed=tuple(failure for report in reports for failure in report.failed),
        passages=sum(report.passages for report in reports),
    )


def require_adoptable(
    index: LateInteractionIndex, collection: Any, embedding: Embeddings | None, *, reencode: bool
) -> None:
    """Whether an open index can take a collection over without losing what its vectors say.

    Raises:
        InputError: The collection's vectors are neither of the index's encoder nor of the embedding given.
    """
    encoder = index.rooms.encoder
    if isinstance(encoder, AdoptedEncoder):
        if embedding is not None:
            _require_same(encoder, embedding)
        if not reencode:
            _require_width(collection, encoder)
    elif embedding is not None:
        raise InputError(
            f"was opened with {encoder.name}, whose pooled vectors are its own",
            field="index",
            remedy="Open a new one with encoder=adopted_encoder(embedding), or leave index out.",
        )
    elif not reencode:
        _require_agreement(index, collection)


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of a collection."""

    id: str
    text: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None

    def checked(self, adopting: AdoptedEncoder | None) -> _Record | Failure:
        if self.text is None:
            return Failure(self.id, "the record holds a vector and no text")
        if adopting is None:
            return self
        if self.vector is None:
            return Failure(self.id, "the record holds no vector; give it one, or add its text by add_texts")
        if self.vector.shape != (adopting.dense_dim,):
            return Failure(self.id, f"its vector has {self.vector.size} numbers, not {adopting.dense_dim}")
        if not np.isfinite(self.vector).all() or not self.vector.any():
            return Failure(self.id, "its vector has no direction; embed it again, or add its text by add_texts")
        return self

    def document(self, acl: Sequence[str] | None) -> dict[str, Any]:
        record: dict[str, Any] = {"id": self.id, "text": self.text, "metadata": self.metadata}
        return record if acl is None or "acl" in self.metadata else {**record, "acl": list(acl)}

    def encoded_as(self, composer: Composer, acl: Sequence[str] | None) -> str | None:
        """The sha256 of what is encoded for the record if it fits one passage; passages of longer ones differ."""
        try:
            document = to_document(self.document(acl))
        except InputError:  # adding it will say so
            return None
        text = document.text
        above = Outline.of(text).above(len(text) - len(text.lstrip()))
        return composer.compose(document.title, above, text.strip()).sha256


def _pages(collection: Any, *, vectors: bool, size: int = _PAGE) -> Iterator[list[_Record]]:
    include = ["documents", "metadatas", "embeddings"] if vectors else ["documents", "metadatas"]
    offset = 0
    while True:
        page = collection.get(limit=size, offset=offset, include=include)
        count = len(page["ids"])
        found = page.get("embeddings") if vectors else None
        dense = [None] * count if found is None else found
        yield [
            _Record(name, text, dict(metadata or {}), None if one is None else np.asarray(one, np.float32))
            for name, text, metadata, one in zip(
                page["ids"], page["documents"], page["metadatas"], dense, strict=True
            )
        ]
        if count < size:
            return
        offset += size


def _name(embedding: Embeddings) -> str:
    models = (getattr(embedding, key, None) for key in ("model", "model_name", "model_id", "deployment"))
    model = next((model for model in models if isinstance(model, str) and model), "")
    return f"{type(embedding).__name__} {model}".strip()


def _require_same(encoder: AdoptedEncoder, embedding: Embeddings) -> None:
    other = adopted_encoder(embedding, encoder=encoder.base)
    if other.fingerprint != encoder.fingerprint:
        raise InputError(
            f"gives {other.name}, and the index holds {encoder.name}",
            field="embedding",
            remedy="Leave it out: the index has its own. Or take a new index.",
        )


def _width(record: _Record) -> int:
    return 0 if record.vector is None else record.vector.size


def _require_width(collection: Any, encoder: Encoder) -> None:
    """Chroma gives all vectors of a collection one width: the first tells."""
    for record in next(_pages(collection, vectors=True, size=1)):
        if record.vector is None:
            raise InputError(
                "holds no vectors", field="collection", remedy="Leave embedding out and pass reencode=True."
            )
        if _width(record) != encoder.dense_dim:
            raise InputError(
                f"gives vectors of {encoder.dense_dim} numbers, and the collection's have {_width(record)}",
                field="embedding",
                remedy=_THE_EMBEDDING,
            )


def _require_agreement(index: LateInteractionIndex, collection: Any) -> None:
    """Whether what the index's encoder says of a few short records is what the collection holds of them."""
    encoder, catalog = index.rooms.encoder, index.rooms.catalog
    first = next(_pages(collection, vectors=True))
    known = catalog.current([record.id for record in first])
    fresh = [one for one in first if one.text and one.text.strip() and one.id not in known]
    if not fresh:
        return
    widths = {_width(record) for record in fresh}
    if widths != {encoder.dense_dim}:
        raise InputError(
            f"is missing: the collection's vectors have {max(widths)} numbers, those of {encoder.name} "
            f"{encoder.dense_dim}",
            field="embedding",
            remedy=_THE_EMBEDDING_OR_NONE,
        )
    room = Budget.of(index.rooms.settings.ingest, encoder).passage
    short = (one for one in fresh if len(encoder.token_spans(normalise_text(one.text or "").strip())) <= room)
    sample = [one for one, _ in zip(short, range(_SAMPLE), strict=False)]
    stored = unit(np.array([one.vector for one in sample], np.float32).reshape(len(sample), encoder.dense_dim))
    texts = [normalise_text(one.text or "").strip() for one in sample]
    cosines = [float(stored[at] @ one.pooled) for at, one in encoded_documents(encoder, texts)]
    if not cosines or not np.mean(cosines) >= _LEAST_COSINE:
        found = f"mean cosine {np.mean(cosines):.2f} of {len(cosines)}" if cosines else "no record is short enough"
        raise InputError(
            f"is missing: the collection's vectors do not show to be those of {encoder.name} ({found})",
            field="embedding",
            remedy=_THE_EMBEDDING_OR_NONE,
        )
