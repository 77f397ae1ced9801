"""Cuts a text into passages along its own structure, counted in the encoder's tokens.

Splitting is a shortest path, as in Knuth and Plass, "Breaking paragraphs into lines" (Software: Practice and
Experience 11, 1981). Every gap between two tokens is a place to cut, with a price: least before a heading, more
before a paragraph, list item, sentence, line or word, most inside a word or a code block that fits. A passage of
s tokens out of at most B costs (1 - s/B)², so that passages come out even and no tiny tail is left, and every
section that begins in a passage's middle costs as much as a cut. The cheapest way through wins; ties go to the
earliest cut, so the same text is always split the same way.

Time and memory are linear: a long text is worked on in windows, and of the gaps within B/24 tokens only the best
is looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lir_agents.errors import InputError
from lir_agents.ingest.cuts import Grid, cheapest_cuts, prices
from lir_agents.ingest.outline import Outline

__all__ = ["Span", "TokenSpans", "split"]

TokenSpans = Callable[[str], Sequence[tuple[int, int]]]
"""Text to the character offsets of its tokens, in order: `Encoder.token_spans`."""

_WINDOW_CHARS: Final = 262_144
_SLACK: Final = 4  # tokens by which a passage alone may count more than the same characters within the text


@dataclass(frozen=True, slots=True)
class Span:
    """Where a passage lies.

    Attributes:
        start: Offset of its first character, which is not white space.
        end: Offset behind its last character, which is not white space.
        headings: Headings it stands under, outermost first, without those in its own text.
    """

    start: int
    end: int
    headings: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The headings as a reader sees them: "Leave > Parental leave"."""
        return " > ".join(self.headings)


def split(text: str, spans_of: TokenSpans, *, passage_tokens: int) -> list[Span]:
    """Cuts a text into passages.

    Args:
        text: Normalised text (`normalise_text`).
        spans_of: The encoder's token offsets.
        passage_tokens: Most tokens of a passage, as `spans_of` counts the passage's own text; at least 16.

    Returns:
        Passages in order, disjoint; together they cover every character that is not white space. A text
        without such characters has none.

    Raises:
        InputError: `passage_tokens` is below 16.
    """
    if passage_tokens < 16:
        raise InputError(f"is {passage_tokens}", field="passage_tokens", remedy="Use at least 16.")
    outline = Outline.of(text)
    passages: list[Span] = []
    for start, end in _windows(text, outline):
        piece = text[start:end]
        for a, b in _cut(piece, start, spans_of(piece), outline, spans_of, passage_tokens):
            passages.append(Span(a, b, outline.above(a)))
    return passages


def _windows(text: str, outline: Outline) -> Iterator[tuple[int, int]]:
    """Pieces of bounded length, cut where the text pauses."""
    start = 0
    while len(text) - start > _WINDOW_CHARS * 5 // 4:
        least, most = start + _WINDOW_CHARS * 3 // 4, start + _WINDOW_CHARS
        last = bisect_right(outline.headings, most, key=lambda heading: heading.start) - 1
        head = outline.headings[last].start if last >= 0 else 0
        end = head if head > least else _pause(text, least, most)
        yield start, end
        start = end
    yield start, len(text)


def _pause(text: str, least: int, most: int) -> int:
    for mark in ("\n\n", "\n", ". ", " "):
        found = text.rfind(mark, least, most)
        if found >= 0:
            return found + len(mark)
    return most


def _cut(
    piece: str, base: int, spans: Sequence[tuple[int, int]], outline: Outline, spans_of: TokenSpans, limit: int
) -> Iterator[tuple[int, int]]:
    """Passages of one piece as offsets into the text; `base` is where the piece begins, `spans` are its tokens."""
    grid = Grid.of(piece, spans)
    if not len(grid.edges):
        return
    cuts = (
        [0, len(grid.edges)]
        if grid.total <= limit
        else cheapest_cuts(grid, prices(piece, base, grid, outline, limit), limit)
    )
    starts = [*grid.edges.tolist(), len(piece)]
    for first, last in pairwise(cuts):
        start, end = starts[first], starts[last]
        body = piece[start:end].rstrip()
        inside_word = len(body) == end - start or not piece[start - 1 : start].isspace()
        if len(cuts) > 2 and (inside_word or grid.counts[last] - grid.counts[first] > limit - _SLACK):
            # Half a word, or text that a tokenizer merged with what surrounded it, may have more tokens alone.
            own = spans_of(body)
            if len(own) > limit:
                yield from _cut(body, base + start, own, outline, spans_of, limit)
                continue
        yield base + start, base + start + len(body)
