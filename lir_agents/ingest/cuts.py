"""Where a text may be cut, what each cut costs, and the cheapest way through. The model is in `split`."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.ingest.outline import Outline

__all__ = ["Grid", "Prices", "cheapest_cuts", "prices"]

# Prices of a cut. Their scale: a passage half full costs .25, so between sentences and paragraphs a cut moves by
# about a third of a passage to find the better place.
_HEADING: Final = 0.0
_PARAGRAPH: Final = 0.08
_ITEM: Final = 0.12
_SENTENCE: Final = 0.25
_LINE: Final = 0.4
_WORD: Final = 0.8
_TOKEN: Final = 1.5
_BELOW_HEADING: Final = 2.0  # a heading belongs to what it heads
_IN_FENCE: Final = 3.0  # code that fits stays whole
_CROSSED_SECTION: Final = 0.6  # sections of more than a third of a passage stand alone, smaller ones are joined

_BOUNDARIES: Final = (
    (re.compile(r"\n\s*"), _LINE),
    (
        re.compile(
            r"(?:(?<=[\w)\]\"'”’»]{2})(?<!\b(?:Dr|Mr|Ms|St|vs|cf|al))(?<!\b(?:Mrs|Fig|Eqs|Inc|Ltd))(?<!\bProf)\.|(?<![.!?…])[!?…])"
            r"[.!?…]*[)\]\"'”’»]*\s+|[。！？]"
        ),
        _SENTENCE,
    ),
    (re.compile(r"^[ \t]*(?=(?:[-*+•]|\d{1,9}[.)])[ \t])", re.MULTILINE), _ITEM),
    (re.compile(r"\n[ \t]*\n\s*"), _PARAGRAPH),
)
_LONG_TOKEN: Final = 64  # characters; WordPiece makes one unknown token of a word of any length
_TOKEN_CHARS: Final = 16  # a longer one counts as one token for each so many characters
_CANDIDATES: Final = 24  # places looked at per passage

_SPACES: Final = np.array([code for code in range(sys.maxunicode + 1) if code < 0x3001 and chr(code).isspace()])
_IS_SPACE: Final = np.isin(np.arange(0x3002), _SPACES)


@dataclass(frozen=True, slots=True)
class Grid:
    """The places where a text can be cut: before a token that follows another.

    Attributes:
        edges: int64 [g], offsets of characters that are not white space, rising; the first such character of
            the text comes first.
        counts: int64 [g + 1], tokens before each edge, and all of them.
        words: bool [g], whether white space comes before the edge.
    """

    edges: NDArray[np.int64]
    counts: NDArray[np.int64]
    words: NDArray[np.bool_]

    @property
    def total(self) -> int:
        """Tokens of the whole text."""
        return int(self.counts[-1])

    def index(self, position: int) -> int:
        """The first edge at or behind an offset; g if there is none."""
        return int(np.searchsorted(self.edges, position))

    @classmethod
    def of(cls, text: str, spans: Sequence[tuple[int, int]]) -> Grid:
        """Reads the grid of a text from the offsets of its tokens."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        space = _IS_SPACE[np.minimum(codes, 0x3001)]
        size = len(codes)
        following = np.minimum.accumulate(np.where(space, size, np.arange(size))[::-1])[::-1]
        if not size or following[0] == size:
            return cls(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.bool_))
        starts = following[np.fromiter((start for start, _ in spans), np.int64, len(spans))]
        first = following[:1]  # also where the tokenizer drops it
        edges, weights = np.unique(np.concatenate([first, starts[starts < size]]), return_counts=True)
        weights[0] -= 1
        extra = np.setdiff1d(following[_inside_long(edges, size)], [*edges, size])
        edges, weights = np.append(edges, extra), np.append(weights, np.ones_like(extra))
        order = np.argsort(edges, kind="stable")
        edges, counts = edges[order], np.concatenate([[0], np.cumsum(weights[order])])
        return cls(edges, counts, space[np.maximum(edges - 1, 0)])


def _inside_long(edges: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Offsets that divide stretches of more than `_LONG_TOKEN` characters without an edge."""
    ends = np.append(edges[1:], size)
    long = np.flatnonzero(ends - edges > _LONG_TOKEN)
    pieces = [np.arange(edges[i] + _TOKEN_CHARS, ends[i], _TOKEN_CHARS) for i in long]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Prices:
    """What cutting costs.

    Attributes:
        cut: float64 [g], the price of a cut before each edge.
        sections: bool [g], whether a section begins there; a heading right below another begins none.
    """

    cut: NDArray[np.float64]
    sections: NDArray[np.bool_]


def prices(piece: str, base: int, grid: Grid, outline: Outline, limit: int) -> Prices:
    """Prices for one piece of a text.

    Args:
        piece: The piece.
        base: Its offset in the text.
        grid: Its grid.
        outline: Of the whole text.
        limit: Most tokens of a passage; fences that fit are kept whole.
    """
    size = len(grid.edges)
    cut = np.append(np.where(grid.words, _WORD, _TOKEN), 0.0)  # one more, for boundaries behind the last edge
    for pattern, price in _BOUNDARIES:
        ends = np.fromiter((match.end() for match in pattern.finditer(piece)), np.int64)
        found = np.searchsorted(grid.edges, ends)
        cut[found] = np.minimum(cut[found], price)
    _price_fences(cut, base, base + len(piece), grid, outline, limit)
    sections = _price_headings(cut, base, base + len(piece), grid, outline)
    return Prices(cut[:size], sections[:size])


def _price_fences(cut: NDArray[np.float64], base: int, end: int, grid: Grid, outline: Outline, limit: int) -> None:
    for start, stop in outline.fences[bisect_left(outline.fences, base, key=lambda fence: fence[1]) :]:
        if start >= end:
            break
        first, last = grid.index(start - base), grid.index(stop - base)
        if start >= base:
            cut[first] = min(cut[first], _PARAGRAPH)
        if grid.counts[last] - grid.counts[first] <= limit:
            cut[first + 1 : last] = _IN_FENCE


def _price_headings(
    cut: NDArray[np.float64], base: int, end: int, grid: Grid, outline: Outline
) -> NDArray[np.bool_]:
    first = bisect_left(outline.headings, base, key=lambda heading: heading.start)
    last = bisect_left(outline.headings, end, key=lambda heading: heading.start)
    headings = outline.headings[first:last]
    begins = np.searchsorted(grid.edges, [heading.start - base for heading in headings])
    below = np.searchsorted(grid.edges, [heading.end - base for heading in headings])
    sections = np.zeros(len(cut), np.bool_)
    cut[begins], sections[begins] = _HEADING, True
    cut[below], sections[below] = _BELOW_HEADING, False
    return sections


def cheapest_cuts(grid: Grid, price: Prices, limit: int) -> list[int]:
    """The cheapest way to cut a grid into passages of at most `limit` tokens, as indices of edges.

    Returns:
        Rising indices, the first 0 and the last g. A single edge that stands for more than `limit` tokens is a
        passage of its own.
    """
    nodes = _candidates(grid, price, limit)
    tokens = grid.counts[nodes].tolist()
    begun = np.concatenate([[0], np.cumsum(price.sections)])
    before = begun[nodes].tolist()  # sections that begin before a node …
    within = begun[np.minimum(nodes + 1, len(grid.edges))].tolist()  # … and up to it
    cuts = [*price.cut[nodes[:-1]].tolist(), 0.0]
    cost, back = [0.0] * len(nodes), [0] * len(nodes)
    low = 0
    for j in range(1, len(nodes)):
        while low < j - 1 and tokens[j] - tokens[low] > limit:
            low += 1
        best = float("inf")
        for i in range(low, j):
            free = 1.0 - (tokens[j] - tokens[i]) / limit
            total = cost[i] + free * free + _CROSSED_SECTION * (before[j] - within[i])
            if total < best:
                best, back[j] = total, i
        cost[j] = best + cuts[j]
    path = [len(nodes) - 1]
    while path[-1]:
        path.append(back[path[-1]])
    return [int(nodes[i]) for i in reversed(path)]


def _candidates(grid: Grid, price: Prices, limit: int) -> NDArray[np.int64]:
    """The cheapest cut, and of equals the first, in every stretch of limit / 24 tokens; both ends."""
    size = len(grid.edges)
    stretch = grid.counts[1:size] // max(1, limit // _CANDIDATES)
    order = np.lexsort((price.cut[1:], stretch))
    firsts = np.unique(stretch[order], return_index=True)[1]
    return np.concatenate([[0], np.sort(order[firsts]) + 1, [size]])
