"""Takes the records of an existing Chroma collection into an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from lir_agents.engine import LateInteractionIndex
from lir_agents.types import AddReport, Failure

__all__ = ["adopt_collection"]

_PAGE: Final = 500


def adopt_collection(
    index: LateInteractionIndex, collection: Any, *, acl: Sequence[str] | None = None
) -> AddReport:
    """Adds every record of a collection as a document: same id, text and metadata; see `from_chroma`.

    Args:
        index: Open; may hold documents already.
        collection: A `chromadb` collection. It is read page by page and never written; leave it alone meanwhile.
        acl: Grants for records whose metadata names no "acl" of their own.

    Returns:
        Counts, and every record that could not be adopted with its reason.
    """
    return index.add(_records(collection, acl))


def _records(collection: Any, acl: Sequence[str] | None) -> Iterator[dict[str, Any] | Failure]:
    offset = 0
    while True:
        page = collection.get(limit=_PAGE, offset=offset, include=["documents", "metadatas"])
        for name, text, metadata in zip(page["ids"], page["documents"], page["metadatas"], strict=True):
            if text is None:
                yield Failure(name, "the record holds a vector and no text")
                continue
            own = dict(metadata or {})
            record: dict[str, Any] = {"id": name, "text": text, "metadata": own}
            yield record if acl is None or "acl" in own else {**record, "acl": list(acl)}
        if len(page["ids"]) < _PAGE:
            return
        offset += _PAGE
