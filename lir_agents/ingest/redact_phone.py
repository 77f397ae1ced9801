"""Telephone numbers: international, national, and whatever stands behind a word such as "Tel."."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lir_agents.ingest.redact_base import Match

__all__ = ["Phones", "inside_account"]

_RUN = re.compile(r"(?<![^\W_])(?<!\+)[+(]{0,2}\d[\d ()./-]*+")
_GROUP = re.compile(r"\d+")
_GAP = re.compile(r" ?[ ./()-]? ?[ (]?|\) ?[ ./-]? ?|\(0\) ?| ?\(0\) ?")
_CUE = re.compile(
    r"(?:phone|tel|telefon|telephone|téléphone|teléfono|telefono|mobile|mobil|handy|cell|call|fax|fon|whatsapp|sms)"
    r"(?: ?(?:no|number|nr|nummer|us|me|at|on|is))?[.:#]{0,2} {0,2}[(+]{0,2}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\(?(?:[0-3]?\d([./-])[0-3]?\d\1(?:19|20)\d\d|(?:19|20)\d\d([./-])[01]\d\2[0-3]\d)(?!\d)")
_NANP = re.compile(r"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")
_ACCOUNT = re.compile(r"(?<![^\W_])[A-Za-z]{2}\d\d[ -]$")
_AFTER_DIGITS = re.compile(r"(?<![\d./:-])\d{2,}[ ]$")
_LONGEST = {"1": 11, "33": 11, "34": 11, "44": 12, "31": 11, "41": 11, "47": 10, "48": 11}
"""Digits of a whole international number, country code included, where the country has one length."""


class Phones:
    """Numbers that can be dialled: 7 to 15 digits (E.164), in a form that people write."""

    kinds = ("PHONE",)

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        for run in _RUN.finditer(shadow):
            if sum(map(str.isdigit, run[0])) >= 7:
                yield from self._in_run(shadow, run.start(), run.end())

    def _in_run(self, shadow: str, start: int, end: int) -> Iterator[Match]:
        groups = [found.span() for found in _GROUP.finditer(shadow, start, end)]
        if _continued(shadow, groups[-1][1]):
            groups.pop()
        place, free = 0, False
        while place < len(groups):
            last = self._number(shadow, groups, place, free)
            free = last is not None
            if last is not None:
                first, stop = _opening(shadow, groups[place][0], start), groups[last][1]
                digits = "".join(shadow[left:right] for left, right in groups[place : last + 1])
                yield Match("PHONE", first, stop, digits)
                place = last
            place += 1

    def _number(self, shadow: str, groups: list[tuple[int, int]], first: int, free: bool) -> int | None:
        """The last group of a number that starts with `first`; None where none does.

        A number does not start in the middle of other groups of digits, unless it is `free`: another number
        ended just before it.
        """
        start, size = groups[first][0], groups[first][1] - groups[first][0]
        before = shadow[start - 1] if start else " "
        if before in "-/." or inside_account(shadow, start) or _DATE.match(shadow, start):
            return None
        if not free and _AFTER_DIGITS.search(shadow, max(0, start - 20), start):
            return None
        plus, cue = before == "+", _cued(shadow, start)
        if not plus and not cue and (shadow[start] != "0" or size == 1):
            return _american(shadow, groups, first)
        for last in range(_reach(shadow, groups, first), first - 1, -1):
            if _dialled(shadow[start : groups[last][1]], plus, cue):
                return last
        return None


def _cued(shadow: str, start: int) -> bool:
    """Whether a word such as "Tel." stands before the digits at `start`."""
    before = shadow[max(0, start - 40) : start]
    return before.rstrip(" .:#(+")[-1:].isalpha() and bool(_CUE.search(before))


def _american(shadow: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The last group of a number of the North American plan, area code first; None where there is none."""
    start = groups[first][0]
    found = _NANP.match(shadow, start - 1 if shadow[start - 1 : start] == "(" else start)
    ends = [end for _, end in groups[first : first + 4]]
    return first + ends.index(found.end()) if found and found.end() in ends else None


def inside_account(shadow: str, start: int) -> bool:
    """Whether the digits at `start` follow a country code and two digits, as in an IBAN that is mistyped."""
    return bool(_ACCOUNT.search(shadow, max(0, start - 6), start))


def _continued(shadow: str, end: int) -> bool:
    """Whether the digits before `end` belong to a word or to a time of day."""
    after = shadow[end : end + 2]
    return after[:1].isalnum() or (after[:1] == ":" and after[1:].isdigit())


def _opening(shadow: str, start: int, least: int) -> int:
    """Takes in the plus sign and the bracket before the first digit."""
    while start > least and shadow[start - 1] in "+(":
        start -= 1
    return start


def _reach(shadow: str, groups: list[tuple[int, int]], first: int) -> int:
    """The last group that is joined to `first` as in one number, with no more than 15 digits between them."""
    last, digits = first, groups[first][1] - groups[first][0]
    while last + 1 < len(groups):
        start, end = groups[last + 1]
        digits += end - start
        if digits > 16 or not _GAP.fullmatch(shadow, groups[last][1], start):
            break
        last += 1
    return last


def _dialled(text: str, plus: bool, cue: bool) -> bool:
    """Whether digits and separators, from the first digit to the last, are a telephone number."""
    digits = "".join(_GROUP.findall(text.replace("(0)", "")))
    grouped = len(digits) < len(text)
    if plus or digits.startswith("00"):
        number = digits if plus else digits[2:]
        code = next((code for code in _LONGEST if number.startswith(code)), "")
        fits = 8 <= len(number) <= (_LONGEST[code] if code else 14) and number[:1] not in ("", "0")
        return fits and (plus or grouped or cue)
    if cue:
        return 7 <= len(digits) <= 13
    return (
        grouped and digits[0] == "0" and digits[1] in "123456789" and 9 <= len(digits) <= 12 and _groups_like(text)
    )


def _groups_like(text: str) -> bool:
    """A national number has no group of one digit, and is not a decimal fraction."""
    sizes = [len(group) for group in _GROUP.findall(text)]
    return min(sizes) >= 2 and len(sizes) <= 6
