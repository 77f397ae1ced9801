"""The text that is encoded for a passage: document title and headings above it, then its own words.

A pure function of what the catalog keeps, so that explaining a hit or rebuilding a store finds the same text
again::

    headings = Outline.of(document.text).above(passage.start)
    composed = Composer(encoder.token_spans, title_tokens=…).compose(document.title, headings, passage.text)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lir_agents.config import IngestSettings
from lir_agents.encoding.base import Encoder
from lir_agents.errors import ConfigError
from lir_agents.ingest.split import TokenSpans

__all__ = ["Budget", "Composed", "Composer"]

_SPECIAL_TOKENS = 4  # [CLS], [SEP], a marker, and one to spare
_LEAST_PASSAGE = 16


@dataclass(frozen=True, slots=True)
class Budget:
    """How an encoder's input is shared out, in tokens.

    Attributes:
        title: Most tokens of title and headings.
        passage: Most tokens of the passage itself.
    """

    title: int
    passage: int

    @classmethod
    def of(cls, settings: IngestSettings, encoder: Encoder) -> Budget:
        """The settings, or less where the encoder reads less, so that no passage is cut off unseen.

        Raises:
            ConfigError: The encoder reads too little for any passage.
        """
        room = encoder.max_tokens - _SPECIAL_TOKENS
        if room < _LEAST_PASSAGE:
            raise ConfigError(
                f"{encoder.name} reads {encoder.max_tokens} tokens, too few for a passage",
                setting="encoder",
                remedy=f"Use an encoder that reads at least {_LEAST_PASSAGE + _SPECIAL_TOKENS}.",
            )
        title = min(settings.title_tokens, room // 4, room - _LEAST_PASSAGE)
        return cls(title, min(settings.passage_tokens, room - title))


@dataclass(frozen=True, slots=True)
class Composed:
    """What is encoded and indexed for one passage.

    Attributes:
        text: Prefix, newline, passage; the passage alone where there is no prefix.
        body_start: Offset at which the passage's own characters begin in `text`.
    """

    text: str
    body_start: int

    @property
    def sha256(self) -> str:
        """Hex digest of `text`: equal digest, equal vectors."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Composer:
    """Composes with one tokenizer and one bound for the prefix. Safe to share between threads."""

    def __init__(self, spans_of: TokenSpans, *, title_tokens: int) -> None:
        self._spans_of = spans_of
        self._title_tokens = title_tokens
        self._prefix = lru_cache(maxsize=4096)(self._make_prefix)

    def compose(self, title: str, headings: Sequence[str], body: str) -> Composed:
        """Puts title and headings before a passage.

        Args:
            title: Of the document.
            headings: Above the passage, outermost first (`Span.headings`).
            body: The passage.
        """
        prefix = self._prefix(title, tuple(headings))
        return Composed(f"{prefix}\n{body}", len(prefix) + 1) if prefix else Composed(body, 0)

    def _make_prefix(self, title: str, headings: tuple[str, ...]) -> str:
        """Title and headings within the bound. Outer headings go first, then the end of what is left.

        A heading that repeats the title is left out. Lines are joined by newlines, which cost no token.
        """
        if not self._title_tokens:
            return ""
        inner = [heading for heading in headings if heading.casefold() != title.casefold()]
        while True:
            prefix = "\n".join(part for part in (title, *inner) if part)
            spans = self._spans_of(prefix)
            if len(spans) <= self._title_tokens:
                return prefix
            if len(inner) <= 1:
                return prefix[: spans[self._title_tokens][0]].rstrip()
            inner = inner[1:]
