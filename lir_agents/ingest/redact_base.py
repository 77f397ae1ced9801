"""What redaction speaks of: matches, findings, placeholders, and the way back to original offsets."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

__all__ = ["Finding", "Ledger", "Match", "OffsetMap", "Recogniser", "Redacted", "Redactor"]


class Match(NamedTuple):
    """What a recogniser saw in a shadow. `value` is its canonical form; it never leaves redaction."""

    kind: str
    start: int
    end: int
    value: str


class Recogniser(Protocol):
    """Finds one kind of thing, or several, in the shadow of a text."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds it finds: upper-case words that placeholders are made of."""

    def find(self, shadow: str) -> Iterator[Match]:
        """Matches from left to right, not overlapping, none of them holding a `MASK`, in linear time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was replaced. It says what and where, never the thing itself.

    `start` and `end` are offsets in characters into the original text.
    """

    kind: str
    start: int
    end: int
    placeholder: str


@dataclass(frozen=True, slots=True)
class OffsetMap:
    """From offsets of the redacted text to offsets of the original.

    Attributes:
        starts: Where each placeholder starts in the redacted text.
        ends: Where each ends.
        originals: The spans of the original that they stand for.
    """

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    originals: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> OffsetMap:
        starts, ends, originals, shift = [], [], [], 0
        for finding in findings:
            starts.append(finding.start + shift)
            ends.append(starts[-1] + len(finding.placeholder))
            originals.append((finding.start, finding.end))
            shift = ends[-1] - finding.end
        return cls(tuple(starts), tuple(ends), tuple(originals))

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The original span of a span of the redacted text; a span that cuts a placeholder takes all of it."""
        first, last = self._place(start), self._place(max(start, end - 1))
        return first[0], max(first[0], last[1] if end > start else first[0])

    def _place(self, offset: int) -> tuple[int, int]:
        before = bisect_right(self.starts, offset) - 1
        if before < 0:
            return offset, offset + 1
        if offset < self.ends[before]:
            return self.originals[before]
        plain = self.originals[before][1] + offset - self.ends[before]
        return plain, plain + 1


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without what was found in it."""

    text: str
    findings: tuple[Finding, ...]
    offset_map: OffsetMap


@dataclass(slots=True)
class Ledger:
    """Gives the same value the same number, for as long as it is handed on: one document, all of its fields.

    It holds the values that were replaced; drop it when the document is done.
    """

    numbers: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    used: Counter[str] = field(default_factory=Counter)

    def reserve(self, placeholders: Iterable[re.Match[str]]) -> None:
        """Skips the numbers that placeholders in the text already have: they stand for something else."""
        for found in placeholders:
            self.used[found[1]] = max(self.used[found[1]], int(found[2]))

    def placeholder(self, kind: str, value: str) -> str:
        """`[KIND_n]`."""
        key = (kind, value)
        if key not in self.numbers:
            self.used[kind] += 1
            self.numbers[key] = f"[{kind}_{self.used[kind]}]"
        return self.numbers[key]


class Redactor(Protocol):
    """Replaces what must not be stored. Called before anything else sees a text."""

    def redact(self, text: str, ledger: Ledger | None = None) -> Redacted:
        """The text with placeholders. Redacting it again changes nothing.

        Args:
            text: The original.
            ledger: Numbers that were given in other fields of the same document.
        """
