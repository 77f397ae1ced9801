"""What is encoded for a passage: where it stands (title and headings), then its own words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from lir_agents.ingest.outline import Outline
from lir_agents.stores.catalog import Catalog
from lir_agents.types import Passage

__all__ = ["encoded_text", "encoding_sha256", "prefix_of"]

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]


def prefix_of(title: str, headings: Sequence[str], spans_of: TokenSpans, *, title_tokens: int) -> str:
    """The line that is encoded before a passage's text: "Handbook > Leave > Parental leave\\n".

    Args:
        title: The document's title.
        headings: Headings above the passage, outermost first; those that repeat the title are left out.
        spans_of: The encoder's token offsets.
        title_tokens: Most tokens of the line; what is longer is cut at its end.

    Returns:
        The line with its newline, or "" where there is neither title nor heading.
    """
    line = " > ".join(part for part in (title, *(h for h in headings if h != title)) if part)
    spans = spans_of(line) if line else []
    if len(spans) > title_tokens:
        line = line[: spans[title_tokens - 1][1]] if title_tokens else ""
    return f"{line}\n" if line else ""


def encoding_sha256(prefix: str, text: str) -> str:
    """Hex sha256 of exactly what is encoded: equal hash, equal vectors."""
    return hashlib.sha256(f"{prefix}\x00{text}".encode()).hexdigest()


def encoded_text(catalog: Catalog, passage: Passage, spans_of: TokenSpans, *, title_tokens: int) -> tuple[str, str]:
    """Prefix and text of a stored passage, as they were encoded. Headings are read off the document again."""
    document = catalog.document(passage.document_id, passage.version)
    headings = Outline.of(document.text).above(passage.start) if document else ()
    return prefix_of(passage.title, headings, spans_of, title_tokens=title_tokens), passage.text
