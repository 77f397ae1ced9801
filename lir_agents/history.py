"""What changed between two versions of a document."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lir_agents.stores.records import StoredDocument
from lir_agents.types import Passage

__all__ = ["RollbackReport", "VersionDiff", "compare"]


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What changed from version `before` to version `after`.

    Attributes:
        lines: A unified diff of the texts, line by line.
        added: Ids of passages whose words are only in `after`, in order of the text.
        removed: Ids of passages whose words are only in `before`.
        kept: How many passages have the same words in both.
        fields: Title, source, source_uri and metadata ("metadata.KEY") that differ: (before, after).
    """

    document_id: str
    before: int
    after: int
    lines: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    kept: int
    fields: Mapping[str, tuple[Any, Any]]

    @property
    def changed(self) -> bool:
        """Whether anything but the number differs."""
        return bool(self.lines or self.fields)


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """What a rollback of the index did.

    Attributes:
        to_epoch: The state gone back to.
        epoch: The state that this made.
        restored: Documents whose content of then is current again, as their next versions.
        retired: Documents that were not there then, and surface no more.
    """

    to_epoch: int
    epoch: int
    restored: int
    retired: int


def compare(
    before: StoredDocument, after: StoredDocument, passages: tuple[Sequence[Passage], Sequence[Passage]]
) -> VersionDiff:
    """Compares two versions of one document.

    Args:
        before: The one.
        after: The other.
        passages: Those of the one, and those of the other, in order of the text.
    """
    old, new = ({passage.text: passage.passage_id for passage in side} for side in passages)
    lines = difflib.unified_diff(
        before.text.splitlines(),
        after.text.splitlines(),
        f"{before.id} version {before.version}",
        f"{after.id} version {after.version}",
        lineterm="",
    )
    return VersionDiff(
        document_id=before.id,
        before=before.version,
        after=after.version,
        lines=tuple(lines),
        added=tuple(name for text, name in new.items() if text not in old),
        removed=tuple(name for text, name in old.items() if text not in new),
        kept=len(old.keys() & new.keys()),
        fields=_fields(before, after),
    )


def _fields(before: StoredDocument, after: StoredDocument) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in ("title", "source", "source_uri")}
    for key in sorted({*before.metadata, *after.metadata}):
        pairs[f"metadata.{key}"] = (before.metadata.get(key), after.metadata.get(key))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
