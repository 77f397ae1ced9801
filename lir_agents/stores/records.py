"""What goes into the catalog and what comes out of it, as frozen dataclasses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lir_agents.arrays import Rows

__all__ = [
    "CatalogCounts",
    "Change",
    "Generation",
    "Restored",
    "RollbackPlan",
    "StagedDocument",
    "StagedPassage",
    "Standing",
    "StoredDocument",
    "VersionInfo",
    "parse_passage_id",
    "passage_id",
]


_PLAIN_INT = "(0|[1-9][0-9]{0,17})"
"""What `str` writes for an int >= 0 of at most 18 digits, which always fits SQLite's 64 bits."""
_PASSAGE_ID = re.compile(rf"(.+)#{_PLAIN_INT}\.{_PLAIN_INT}", re.DOTALL)


def passage_id(document_id: str, version: int, ordinal: int) -> str:
    """Names one immutable passage: `<document id>#<version>.<ordinal>`, `ordinal` from 0.

    Injective for every document id, because nothing after the last `#` can hold another one.
    """
    return f"{document_id}#{version}.{ordinal}"


def parse_passage_id(text: str) -> tuple[str, int, int] | None:
    """The (document id, version, ordinal) that `passage_id` joined; None where `text` is no passage id."""
    found = _PASSAGE_ID.fullmatch(text)
    return None if found is None else (found[1], int(found[2]), int(found[3]))


# ---------------------------------------------------------------- what goes in


@dataclass(frozen=True, slots=True)
class StagedPassage:
    """One passage of a document that is being added.

    Attributes:
        ordinal: Position in the document, from 0.
        start: First character of the passage in the document's text.
        end: One past the last; ``document.text[start:end] == text``.
        text: The passage's own words.
        encoding_sha256: Hash of exactly what is encoded (title and body): equal hash, equal vectors.
    """

    ordinal: int
    start: int
    end: int
    text: str
    encoding_sha256: str


@dataclass(frozen=True, slots=True)
class StagedDocument:
    """One version of a document that is being added.

    Attributes:
        id: The document's stable id.
        content_sha256: Hash of everything that a reader is told (text, title, metadata, URI): equal hash means
            "unchanged".
        title: Title.
        text: The whole normalised text.
        source: Which system it came from.
        source_uri: Where a reader finds the original.
        access_key: Canonical, opaque string; documents with equal keys are readable by the same principals.
        metadata: What filters search; see `lir_agents.stores.attributes.validate_metadata`.
        passages: At least one.
    """

    id: str
    content_sha256: str
    title: str
    text: str
    source: str
    source_uri: str
    access_key: str
    metadata: Mapping[str, Any]
    passages: Sequence[StagedPassage]


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True, slots=True)
class Generation:
    """One encoder's vectors over the whole corpus. Dimensions count float components."""

    id: int
    fingerprint: str
    name: str
    dense_dim: int
    token_dim: int


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One committed version of a document, without its text.

    Attributes:
        version: From 1, in order of adding.
        content_sha256: Digest of the content.
        title: Title of this version.
        passages: How many it has.
        added_epoch: The epoch at which it became current.
        added_at: When that was, UTC.
        retired_epoch: The epoch at which it stopped being current; None while it is.
        retired_at: When that was, UTC.
        restored_from: The earlier version whose content it repeats, where it is the fruit of a rollback.
    """

    version: int
    content_sha256: str
    title: str
    passages: int
    added_epoch: int
    added_at: datetime
    retired_epoch: int | None
    retired_at: datetime | None
    restored_from: int | None

    @property
    def live(self) -> bool:
        """Whether this is the document's current version."""
        return self.retired_epoch is None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One committed version of a document with its text. `info` carries its number, digest and dates.

    Who may read it is not part of it: readers need not know of each other. See `Standing`.
    """

    id: str
    text: str
    title: str
    source: str
    source_uri: str
    metadata: Mapping[str, Any]
    info: VersionInfo

    @property
    def version(self) -> int:
        """Number of this version, from 1."""
        return self.info.version

    @property
    def content_sha256(self) -> str:
        """Digest of this version's content."""
        return self.info.content_sha256


@dataclass(frozen=True, slots=True)
class Standing:
    """A document at one moment.

    Attributes:
        access_key: Who may read it, and all its versions: that of the newest.
        versions: Committed ones, oldest first.
        documents: Those asked for, in that order; None where there is no such version.
        keys: The access key that the content of each of those was added under; of what a rollback repeats, that of
            the version it was added as.
    """

    access_key: str
    versions: tuple[VersionInfo, ...]
    documents: tuple[StoredDocument | None, ...]
    keys: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one epoch did to one document.

    Attributes:
        epoch: When, as the catalog counts.
        at: When, UTC.
        kind: "added" (nothing was current before), "updated", or "retired" (nothing is current after).
        document_id: Which document.
        version: Current after the change; None when retired.
        previous: Current before the change; None when added.
    """

    epoch: int
    at: datetime
    kind: Literal["added", "updated", "retired"]
    document_id: str
    version: int | None
    previous: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """A staged copy of an old version: copy the vectors of `sources` to `rows` (int64 [n] each, aligned), then
    commit `rows`."""

    document_id: str
    version: int
    rows: Rows
    sources: Rows


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """What takes the whole index back to an epoch: versions to restore, and documents to retire."""

    restore: tuple[tuple[str, int], ...]
    retire: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogCounts:
    """How much the catalog holds.

    Attributes:
        documents: Documents with a current version.
        versions: Committed versions, current or not.
        passages: Passages of committed versions.
        live_passages: Passages of current versions: what a search sees.
        pending_passages: Staged and not committed.
    """

    documents: int
    versions: int
    passages: int
    live_passages: int
    pending_passages: int
