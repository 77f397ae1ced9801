"""The shadow of a text: what a reader sees, in plain characters, with the way back to every original offset.

Recognisers match on the shadow, so that a card number in full-width or Arabic-Indic digits, or an address with
zero-width spaces in it, is found like any other; what is replaced is the span of the original.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MASK", "Shadow", "shadow_of"]

MASK = "\x00"
"""Stands in a shadow for what has been found already. No shadow holds one of its own: controls are stripped."""

_KEPT_CONTROLS = "\t\n\r"
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")  # they show nothing, yet are no format
_DASHES = frozenset("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63\uff0d\u30fc\u02d7\u06d4")
_DOTS = frozenset("\u3002\uff61\u2024\ufe52\uff0e\u00b7\u2027\u30fb\uff65")


def _plain(char: str) -> str:
    """One character as it is matched: "" for what cannot be seen, ASCII for digits, dashes, dots and spaces."""
    category = unicodedata.category(char)
    if char in _KEPT_CONTROLS:
        return char
    # Marks on other characters go with what cannot be seen: an underlined digit, or one on a keycap, is a digit.
    if category in ("Cc", "Cf", "Mn", "Me") or char in _INVISIBLE:
        return ""
    if char in _DASHES:
        return "-"
    if char in _DOTS:
        return "."
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if category in ("Zl", "Zp"):
        return "\n"
    if category == "Zs":
        return " "
    return unicodedata.normalize("NFKC", char)


_ORDINARY = re.compile(r"[\t\n\r\x20-\x7e]*+")


class _Table(dict[int, str]):
    def __missing__(self, codepoint: int) -> str:
        replacement = self[codepoint] = _plain(chr(codepoint))
        return replacement


_TABLE = _Table()  # grows to at most one entry per code point in use


@dataclass(frozen=True, slots=True)
class Shadow:
    """A text as it is matched.

    Attributes:
        text: The plain characters.
        starts: int64 [len(text)], the original offset each plain character comes from; None when every
            character stands for itself.
        ends: int64 [len(text)], where what each stands for ends, with the marks on it; None likewise.
    """

    text: str
    starts: NDArray[np.int64] | None
    ends: NDArray[np.int64] | None

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that a non-empty span of the shadow stands for."""
        if self.starts is None or self.ends is None:
            return start, end
        return int(self.starts[start]), int(self.ends[end - 1])


def shadow_of(text: str) -> Shadow:
    """The shadow of a text, in time linear in its length.

    NFKC is applied character by character, which differs from NFKC of the whole only in how combining marks are
    composed, and keeps the map of offsets exact.
    """
    if _ORDINARY.fullmatch(text):
        return Shadow(text, None, None)
    plain = text.translate(_TABLE)
    codepoints = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    distinct, places = np.unique(codepoints, return_inverse=True)
    lengths = np.array([len(_TABLE[int(codepoint)]) for codepoint in distinct], dtype=np.int64)[places]
    if bool((lengths == 1).all()):
        return Shadow(plain, None, None)
    starts = np.repeat(np.arange(len(text), dtype=np.int64), lengths)
    return Shadow(plain, starts, _after_marks(text, distinct, places)[starts])


def _after_marks(text: str, distinct: NDArray[np.uint32], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each original character ends, with the marks that follow it: int64 [len(text)]."""
    mark = np.array([unicodedata.category(chr(codepoint)) in ("Mn", "Me") for codepoint in distinct], bool)[places]
    unmarked = np.append(np.where(mark, len(text), np.arange(len(text), dtype=np.int64)), len(text))
    # From the back: the next character that is no mark.
    return np.minimum.accumulate(unmarked[::-1])[::-1][1:]
