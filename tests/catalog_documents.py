"""Small documents for tests of the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lir_agents.stores.catalog import StagedDocument, StagedPassage


def sha256(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def document(
    id: str,
    passages: Sequence[str] | str = "some text",
    *,
    access: str = "null",
    title: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> StagedDocument:
    """A document of the given passages, one line each."""
    texts = [passages] if isinstance(passages, str) else list(passages)
    staged, start = [], 0
    for ordinal, text in enumerate(texts):
        staged.append(StagedPassage(ordinal, start, start + len(text), text, sha256(title, text)))
        start += len(text) + 1
    values = dict(metadata or {})
    return StagedDocument(
        id=id,
        content_sha256=sha256(texts, title, values, access),
        title=title,
        text="\n".join(texts),
        source="test",
        source_uri=f"test:{id}",
        access_key=access,
        metadata=values,
        passages=staged,
    )
