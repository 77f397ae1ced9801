"""Why a passage surfaced: which query tokens met which of its words, read off the similarity matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Explanation", "TokenMatch", "explain_matches"]


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """One query token and the passage word it matched best.

    Attributes:
        query_token: The token as it stands in the query.
        query_span: Its character offsets (start, end) in the query.
        word: The whole word of the passage (or of its title) around the matching token.
        span: Character offsets of that word: in the passage's text, or in the title where `in_title`.
        in_title: Whether the word stands in the title (or heading) that is encoded with the passage.
        similarity: Cosine in [-1, 1].
        contribution: This token's share of `maxsim_score`: weight times similarity; they sum to the score.
    """

    query_token: str
    query_span: tuple[int, int]
    word: str
    span: tuple[int, int]
    in_title: bool
    similarity: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Explanation(Sequence[TokenMatch]):
    """Matches in query order. `maxsim_score` is the sum of their contributions."""

    query: str
    text: str
    matches: tuple[TokenMatch, ...]

    @property
    def maxsim_score(self) -> float:
        return sum(match.contribution for match in self.matches)

    @overload
    def __getitem__(self, index: int) -> TokenMatch: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TokenMatch, ...]: ...
    def __getitem__(self, index: int | slice) -> TokenMatch | tuple[TokenMatch, ...]:
        return self.matches[index]

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[TokenMatch]:
        return iter(self.matches)

    def __str__(self) -> str:
        lines = [f"MaxSim {self.maxsim_score:.3f} for {self.query!r}"]
        for match in self.matches:
            where = "title" if match.in_title else f"{match.span[0]}:{match.span[1]}"
            lines.append(f"  {match.query_token:>16} → {match.word:<20} {match.similarity:+.3f}  ({where})")
        return "\n".join(lines)


def explain_matches(
    *,
    query: str,
    query_spans: NDArray[np.int32],
    similarity: NDArray[np.float32],
    weights: NDArray[np.float32],
    encoded: str,
    passage_spans: NDArray[np.int32],
    prefix_length: int,
) -> Explanation:
    """Reads the best match of every query token off a similarity matrix.

    Args:
        query: The query's text.
        query_spans: int32 [q_len, 2], offsets of its tokens.
        similarity: float32 [q_len, n], cosines with the passage's n tokens, n >= 1.
        weights: float32 [q_len], the weights MaxSim was computed with.
        encoded: What the passage's vectors were computed from: prefix (title, heading) plus text.
        passage_spans: int32 [n, 2], offsets into `encoded`.
        prefix_length: Characters of `encoded` before the passage's own text.

    Returns:
        One match per query token, in query order; contributions sum to the weighted mean of maxima.
    """
    share = weights / weights.sum()
    matches = []
    for position, best in enumerate(similarity.argmax(axis=1)):
        start, end = _whole_word(encoded, *(int(x) for x in passage_spans[best]))
        in_title = start < prefix_length
        shift = 0 if in_title else prefix_length
        value = float(similarity[position, best])
        query_start, query_end = (int(x) for x in query_spans[position])
        matches.append(
            TokenMatch(
                query_token=query[query_start:query_end],
                query_span=(query_start, query_end),
                word=encoded[start:end],
                span=(start - shift, end - shift),
                in_title=in_title,
                similarity=value,
                contribution=float(share[position]) * value,
            )
        )
    return Explanation(query=query, text=encoded[prefix_length:], matches=tuple(matches))


def _whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """Grows a token's offsets to the word around it; a marker's empty offsets stay empty."""
    if end <= start or not text[start:end].isalnum():
        return start, end
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return start, end
