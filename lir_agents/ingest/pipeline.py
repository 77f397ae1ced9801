"""Documents into an index: a reader sees each of them whole or not at all.

The order, which makes a crash harmless at any point::

    stage (pending) → words, tokens, vectors → record → commit (visible) → retired rows leave Chroma

What is pending when a process dies is discarded by `reconcile` at the next opening, and is added again by the
next run, which skips everything that was committed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lir_agents.arrays import Rows
from lir_agents.config import IngestSettings
from lir_agents.encoding.base import Encoder
from lir_agents.errors import InputError, LirError
from lir_agents.ingest.adapters import content_sha256, convert, normalised, with_id
from lir_agents.ingest.compose import Budget, Composer
from lir_agents.ingest.erasing import erase_documents
from lir_agents.ingest.outline import Outline
from lir_agents.ingest.redact import RedactedDocument, redact_document
from lir_agents.ingest.redact_base import Redactor
from lir_agents.ingest.split import split
from lir_agents.ingest.writing import DerivedStores, PassageWriter, PreparedPassage, prepare_passage
from lir_agents.reports import AddReport, Failure
from lir_agents.stores.base import LexicalStore, TokenStore, VectorStore
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.records import StagedDocument, StagedPassage
from lir_agents.types import Document

__all__ = ["Committing", "Ingestor", "Progress", "Redactions"]

Progress = Callable[[int, int], None]
"""Told (documents done, passages written) after every batch."""

Redactions = Mapping[str, RedactedDocument]
"""What was replaced, by document id; documents in which nothing was are left out."""

Committing = Callable[[Sequence[tuple[str, int, str]], AddReport, Redactions], None]
"""Told (document id, version, content_sha256) of each document, the batch's counts, and what was redacted, right
before they become visible. If it raises, they do not."""

_BATCH_CHARS = 2_000_000


_Checked = tuple[Document, RedactedDocument | None]
"""A document that may be added, and what was replaced in it."""


@dataclass(slots=True)
class _Tally:
    """Counts of one call of `add`, while it runs."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    passages: int = 0
    failed: list[Failure] = field(default_factory=list)

    def report(self) -> AddReport:
        return AddReport(self.added, self.updated, self.unchanged, tuple(self.failed), self.passages)

    @property
    def documents(self) -> int:
        return self.added + self.updated + self.unchanged + len(self.failed)


class Ingestor:
    """Adds, retires and erases documents of one index. One write at a time; searches go on meanwhile.

    Args:
        catalog, encoder, tokens, vectors, lexical: The open rooms.
        access_key: From the policy: document to access key; raises InputError where a document may not be in
            this index.
        composer: Puts title and headings before a passage.
        settings: How documents become passages.
        committing: See `Committing`.
        redactor: Replaces what must not be stored, before anything else sees a document; None: nothing is.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        encoder: Encoder,
        tokens: TokenStore,
        vectors: VectorStore,
        lexical: LexicalStore,
        access_key: Callable[[Document], str],
        composer: Composer,
        settings: IngestSettings,
        committing: Committing | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._catalog = catalog
        self._id_key = catalog.id_key()
        self._encoder = encoder
        self._budget = Budget.of(settings, encoder)
        self._composer = composer
        self._stores = DerivedStores(tokens=tokens, vectors=vectors, lexical=lexical)
        self._writer = PassageWriter(catalog, encoder, self._stores)
        self._access_key = access_key
        self._settings = settings
        self._committing = committing or (lambda documents, report, redactions: None)
        self._redactor = redactor
        self._lock = threading.Lock()

    def add(self, documents: Iterable[object], *, progress: Progress | None = None) -> AddReport:
        """Adds what is new, updates what changed, leaves alone what did not.

        Args:
            documents: Document-like objects (see `adapters`) and `Failure`s of a reader; consumed lazily. A
                document that comes twice is taken in order: the last one is current, both are versions.
            progress: See `Progress`.

        Returns:
            Counts and failures. A document that fails keeps no other from being added.

        Raises:
            StoreError: A store failed. Committed batches remain; nothing of the current one does.
            Exception: What the iterator raised, after what it had given was committed.
        """
        tally = _Tally()
        for batch in self._batches(documents, tally):
            with self._lock:  # a batch at a time: a slow reader keeps nobody from deleting or erasing
                self._add_batch([document for document, _ in batch], tally, _redactions(batch))
            if progress:
                progress(tally.documents, tally.passages)
        return tally.report()

    def delete(self, ids: Sequence[str]) -> int:
        """Retires documents; their versions stay. Returns how many passages were live."""
        with self._lock:
            rows = self._catalog.retire(ids)
            if len(rows):
                self._stores.vectors.delete(rows)
        return len(rows)

    def erase(self, ids: Sequence[str]) -> Rows:
        """Removes every version of the documents, and their bytes from every store.

        Returns:
            The rows that are gone.

        Raises:
            StoreError: A store failed or was being read for too long. The documents are invisible already;
                calling again, or opening the index again, finishes the work.
        """
        with self._lock:
            return erase_documents(self._catalog, self._stores, ids)

    def rollback(self, id: str, version: int) -> int:
        """Makes an old version's content current again, without encoding. Returns the new version's number.

        Raises:
            InputError: There is no such committed version.
        """
        with self._lock:
            ((_, number, _),) = self._restore([(id, version)], ())
        return number

    def rollback_all(self, restore: Sequence[tuple[str, int]], retire: Sequence[str]) -> None:
        """Makes old versions current again and retires documents, in one epoch and without encoding.

        Args:
            restore: (document id, version) each.
            retire: Documents that surface no more.

        Raises:
            StoreError: A store failed; nothing was changed.
        """
        with self._lock:
            self._restore(restore, retire)

    def _restore(self, restore: Sequence[tuple[str, int]], retire: Sequence[str]) -> list[tuple[str, int, str]]:
        """Stages copies and writes them a slab at a time, then commits them as one."""
        rows: list[Rows] = []
        about: list[tuple[str, int, str]] = []
        try:
            for start in range(0, len(restore), self._settings.batch_documents):
                slab: list[PreparedPassage] = []
                for id, version in restore[start : start + self._settings.batch_documents]:
                    restored = self._catalog.rollback(id, version)
                    rows.append(restored.rows)
                    digest, prepared = self._stored(id, version, restored.rows)
                    about.append((id, restored.version, digest))
                    slab += prepared
                self._writer.write(np.concatenate(rows[start:]), slab)
            delta = AddReport(updated=len(about), passages=sum(map(len, rows)))
            retired = self._publish(rows, about, delta, retire)
        except BaseException as error:
            if rows:
                self._discard(np.concatenate(rows), error)
            raise
        self._leave(retired)
        return about

    def _stored(self, id: str, version: int, rows: Rows) -> tuple[str, list[PreparedPassage]]:
        """The digest of a stored version's content, and its passages as they were encoded."""
        document = self._catalog.document(id, version)
        if document is None:
            raise InputError(f"has no version {version}", field="id", remedy="See `versions(id)`.")
        outline = Outline.of(document.text)
        return document.content_sha256, [
            prepare_passage(self._composer, passage.title, outline.above(passage.start), passage.text)
            for passage in self._catalog.passages(rows)
        ]

    # ------------------------------------------------------------ batches

    def _batches(self, documents: Iterable[object], tally: _Tally) -> Iterator[list[_Checked]]:
        """Checked documents with distinct ids, bounded in number and size."""
        batch: list[_Checked] = []
        seen: set[str] = set()
        chars = 0
        source = iter(documents)
        while True:
            try:
                thing = next(source)
            except StopIteration:
                break
            except Exception:
                # The reader broke: what it gave so far is worth keeping.
                if batch:
                    yield batch
                raise
            checked = self._checked(thing, tally)
            if checked is None:
                continue
            document = checked[0]
            assert document.id is not None  # `with_id` saw to it
            full = len(batch) >= self._settings.batch_documents or chars + len(document.text) > _BATCH_CHARS
            if batch and (full or document.id in seen):
                yield batch
                batch, seen, chars = [], set(), 0
            batch.append(checked)
            seen.add(document.id)
            chars += len(document.text)
        if batch:
            yield batch

    def _checked(self, thing: object, tally: _Tally) -> _Checked | None:
        if isinstance(thing, Failure):
            tally.failed.append(thing)
            return None
        try:
            raw = convert(thing)
            if len(raw.text) > self._settings.max_document_chars:
                raise InputError(
                    f"has {len(raw.text):,} characters, at most {self._settings.max_document_chars:,} are taken",
                    field="text",
                    remedy="Split it, or raise the setting ingest.max_document_chars.",
                )
            # Before an id is derived or a digest taken: neither is of what was redacted.
            clean, redacted = self._redacted(normalised(raw))
            document = with_id(clean, self._id_key)
            if not document.text.strip():
                raise InputError("is empty", field="text", remedy="Leave it out, or give it text.")
            self._access_key(document)
        except InputError as error:
            tally.failed.append(Failure(id=_name(thing), reason=str(error)))
            return None
        return document, redacted

    def _redacted(self, document: Document) -> _Checked:
        if self._redactor is None:
            return document, None
        redacted = redact_document(document, self._redactor)
        # Placeholders are longer than some of what they stand for: what is stored is checked once more.
        return normalised(redacted.document), redacted if redacted.originals else None

    def _add_batch(self, batch: Sequence[Document], tally: _Tally, redactions: Redactions) -> None:
        digests = {_id(document): content_sha256(document) for document in batch}
        current = self._catalog.current(list(digests))
        changed = [
            document
            for document in batch
            if current.get(_id(document)) != (digests[_id(document)], self._access_key(document))
        ]
        tally.unchanged += len(batch) - len(changed)
        if not changed:
            return
        staged, prepared = [], []
        for document in changed:
            passages, record = self._passages(document, digests[_id(document)])
            prepared += passages
            staged.append(record)
        rows = self._catalog.stage(staged)
        updated = sum(_id(document) in current for document in changed)
        delta = AddReport(added=len(changed) - updated, updated=updated, passages=len(prepared))
        versions = [passage.version for passage in self._catalog.passages([int(part[0]) for part in rows])]
        about = [
            (record.id, number, record.content_sha256) for record, number in zip(staged, versions, strict=True)
        ]
        self._write_and_commit(rows, prepared, about, delta, redactions)
        tally.added += delta.added
        tally.updated += delta.updated
        tally.passages += delta.passages

    def _write_and_commit(
        self,
        rows: Sequence[Rows],
        prepared: Sequence[PreparedPassage],
        about: Sequence[tuple[str, int, str]],
        delta: AddReport,
        redactions: Redactions,
    ) -> None:
        together = np.concatenate(list(rows))
        try:
            self._writer.write(together, prepared)
            retired = self._publish(rows, about, delta, redactions=redactions)
        except BaseException as error:
            self._discard(together, error)
            raise
        self._leave(retired)

    def _publish(
        self,
        rows: Sequence[Rows],
        about: Sequence[tuple[str, int, str]],
        delta: AddReport,
        retire: Sequence[str] = (),
        redactions: Redactions | None = None,
    ) -> Rows:
        if about:
            self._committing(about, delta, redactions or {})
        return self._catalog.commit(list(rows), retire=retire)

    def _leave(self, retired: Rows) -> None:
        """Takes what is no longer current out of Chroma."""
        if len(retired):
            self._stores.vectors.delete(retired)

    def _discard(self, rows: Rows, error: BaseException) -> None:
        """Leaves nothing of a batch behind; what cannot be removed now is removed at the next opening."""
        try:
            self._catalog.discard_pending(rows)
            self._stores.drop(rows)
        except LirError as second:
            error.add_note(f"Cleaning up failed as well ({second}); the next opening of the index finishes it.")

    # ------------------------------------------------------------ one document

    def _passages(self, document: Document, digest: str) -> tuple[list[PreparedPassage], StagedDocument]:
        spans = split(document.text, self._encoder.token_spans, passage_tokens=self._budget.passage)
        prepared = [
            prepare_passage(self._composer, document.title, span.headings, document.text[span.start : span.end])
            for span in spans
        ]
        staged = [
            StagedPassage(
                ordinal, span.start, span.end, document.text[span.start : span.end], passage.encoding_sha256
            )
            for ordinal, (span, passage) in enumerate(zip(spans, prepared, strict=True))
        ]
        return prepared, StagedDocument(
            id=_id(document),
            content_sha256=digest,
            title=document.title,
            text=document.text,
            source=document.source,
            source_uri=document.source_uri,
            access_key=self._access_key(document),
            metadata=document.metadata,
            passages=staged,
        )


def _redactions(batch: Sequence[_Checked]) -> Redactions:
    return {_id(document): redacted for document, redacted in batch if redacted is not None}


def _id(document: Document) -> str:
    assert document.id is not None  # every document of a batch went through `with_id`
    return document.id


def _name(thing: object) -> str:
    """What a person can find the failed document by."""
    for name in ("id", "node_id", "_id"):
        value = thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)
        if isinstance(value, str) and value:
            return value
    return f"<{type(thing).__name__} without id>"
