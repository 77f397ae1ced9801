"""Recognisers of what speaks of a person: addresses, numbers of cards, accounts, people and machines."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from lir_agents.ingest.redact_base import Match, Recogniser
from lir_agents.ingest.redact_checks import (
    IBAN_LENGTHS,
    codice_fiscale,
    dni,
    iban,
    nino,
    nir,
    payment_card,
    ssn,
    steuer_id,
)
from lir_agents.ingest.redact_pattern import Pattern, bare
from lir_agents.ingest.redact_phone import Phones, inside_account

__all__ = ["PERSONAL"]


class Emails:
    """E-mail addresses, found by their at sign, also where it is written "(at)" and the dots "(dot)", or both as in
    an address of the web ("%40", "%2E")."""

    kinds = ("EMAIL",)
    _at = re.compile(r"@|%(?:25)?40| ?[\[({<] ?at ?[\])}>] ?", re.IGNORECASE)
    _dot = re.compile(r"%(?:25)?2e| ?[\[({<] ?(?:dot|punkt|point|punto) ?[\])}>] ?", re.IGNORECASE)
    _label = re.compile(r"\w[\w-]{0,62}")
    _top = re.compile(r"[^\W\d_]{2,24}|xn--[\w-]{1,59}", re.IGNORECASE)

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        reached = 0
        for at in self._at.finditer(shadow):
            start = self._local(shadow, at.start(), reached)
            labels, end = self._domain(shadow, at.end())
            if at[0][0] == "%" and shadow[end : end + 1] == "@" and self._domain(shadow, end + 1)[1]:
                continue  # an address as the local part of another (a login, a route): found by that one's sign
            if start < at.start() and end:
                reached = end
                value = f"{shadow[start : at.start()]}@{'.'.join(labels)}".lower()
                yield Match("EMAIL", start, end, value)

    @staticmethod
    def _local(shadow: str, end: int, reached: int) -> int:
        """Start of the local part that ends at `end`, at most 64 characters before (RFC 5321, 4.5.3.1.1)."""
        start = end
        while start > max(reached, end - 64) and (shadow[start - 1].isalnum() or shadow[start - 1] in "._%+'-"):
            start -= 1
        while start < end and not (shadow[start].isalnum() or shadow[start] in "_+"):
            start += 1
        return start

    def _domain(self, shadow: str, start: int) -> tuple[list[str], int]:
        """Labels from `start` up to the last one that can be a top-level domain, and where that ends; or 0."""
        labels: list[str] = []
        sound, end = 0, 0
        while len(labels) < 10 and (label := self._label.match(shadow, start)):
            labels.append(label[0].rstrip("-"))
            if len(labels) > 1 and self._top.fullmatch(labels[-1]):
                sound, end = len(labels), start + len(labels[-1])
            dot = self._dot.match(shadow, label.end())
            if dot is None and shadow[label.end() : label.end() + 1] != ".":
                break
            start = dot.end() if dot else label.end() + 1
        return labels[:sound], end


_WRAPPED = re.compile(r"(?P<before>[.-]?) ?\r?\n[ \t]{0,8}")
"""What parts two groups where a line ends between them: the separator, or nothing in place of a space."""


class Cards:
    """Payment cards: 13 to 19 digits in a range that is issued, with a right Luhn digit, however grouped.

    One that is grouped may go on in the next line; groups that stand below each other are a table's.
    """

    kinds = ("CARD",)
    _digits = re.compile(r"\d(?<![^\W_]\d)\d*+(?![^\W_])")

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        groups = [found.span() for found in self._digits.finditer(shadow)]
        place = 0
        while place < len(groups):
            last = self._card(shadow, groups, place)
            if last is not None:
                start, end = groups[place][0], groups[last][1]
                yield Match("CARD", start, end, bare(shadow[start:end]))
                place = last
            place += 1

    @staticmethod
    def _card(shadow: str, groups: list[tuple[int, int]], first: int) -> int | None:
        """The last of the groups that make a card from `first` on, evenly separated; None where none do."""
        start, end = groups[first]
        if end - start > 19 or shadow[start] not in "23456" or inside_account(shadow, start):
            return None
        digits, separator, lines = shadow[start:end], "", 1
        for last in range(first, min(first + 19, len(groups))):
            if last > first:
                gap = shadow[groups[last - 1][1] : groups[last][0]]
                if wrapped := _WRAPPED.fullmatch(gap):
                    gap, lines = wrapped["before"] or " ", lines + 1
                if gap not in (" ", "-", ".", " - ") or (separator and gap != separator):
                    return None
                separator = gap
                digits += shadow[groups[last][0] : groups[last][1]]
            if len(digits) > 19 or lines > 2:
                return None
            whole = lines == 1 or last - first > 1
            sizes = [right - left for left, right in groups[first : last + 1]]
            if whole and payment_card(digits) and _as_printed(sizes):
                return last
        return None


def _as_printed(sizes: list[int]) -> bool:
    """Whether digits are grouped as on a card (4-4-4-4, 4-6-5, 4-4-4-4-3), evenly, or not at all."""
    even = len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
    return len(sizes) == 1 or even or sizes in ([4, 6, 5], [4, 6, 4])


class Ibans:
    """International bank account numbers: as long as the country's are, and 1 modulo 97."""

    kinds = ("IBAN",)
    _start = re.compile(r"(?<![^\W_])[A-Za-z]{2}[ -]?\d[ -]?\d(?=[ -]?\s{0,9}[A-Za-z0-9])")

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        reached = 0
        for found in self._start.finditer(shadow):
            start = found.start()
            end = self._end(shadow, start, IBAN_LENGTHS.get(shadow[start : start + 2].upper(), 0))
            if start >= reached and end and iban(bare(shadow[start:end])):
                reached = end
                yield Match("IBAN", start, end, bare(shadow[start:end]))

    @staticmethod
    def _end(shadow: str, start: int, length: int) -> int:
        """Where `length` letters and digits end, single separators between them left out, and ends of lines between
        groups of four; 0 if they do not."""
        end, taken = start, 0
        while taken < length and end < len(shadow):
            char = shadow[end]
            if char.isascii() and char.isalnum():
                taken, end = taken + 1, end + 1
                continue
            gap = None if taken % 4 else _WRAPPED.match(shadow, end)
            end = gap.end() if gap else end + 1
            if not (gap or char in " -.") or not shadow[end : end + 1].isalnum():
                return 0
        whole = taken == length and not shadow[end : end + 1].isalnum()
        return end if length and whole else 0


class Addresses:
    """IPv4 and IPv6 addresses that can name somebody's machine; loopback, multicast and the like do not."""

    kinds = ("IP_ADDRESS",)
    _shape = re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,45}(?:\.\d{1,3}){0,3})(?![\w:])(?!\.\d)"
    )
    _version = re.compile(r"(?:version|release|ver|rev|sections?|chapter|v|§)\W{0,3}$", re.IGNORECASE)

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        for found in self._shape.finditer(shadow):
            text = found[0].rstrip(":")
            if self._personal(text) and not self._version.search(
                shadow[max(0, found.start() - 12) : found.start()]
            ):
                yield Match("IP_ADDRESS", found.start(), found.start() + len(text), text.lower())

    @staticmethod
    def _personal(text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:  # not an address: nothing to find
            return False
        if address.version == 4 and text.startswith("0."):
            return False  # "this network": a mask, not a machine
        nobody = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved
        return not nobody and (address.version == 4 or text.count(":") > 2 or "::" in text[1:-2])


def _number(kind: str, shape: str, check: Callable[[str], bool]) -> Pattern:
    # A shape that begins with a digit looks behind only once it stands on one: ten times as fast on prose.
    start = "" if r"(?<![^\W_]\d)" in shape else r"(?<![^\W_])"
    return Pattern(kind, re.compile(rf"{start}(?:{shape})(?![^\W_])", re.IGNORECASE), check, bare)


PERSONAL: tuple[Recogniser, ...] = (
    Emails(),
    Ibans(),
    Cards(),
    _number("IT_CF", r"[A-Z]{6} ?\d{2}[ABCDEHLMPRST]\d{2} ?[A-Z]\d{3}[A-Z]", codice_fiscale),
    _number(
        "FR_NIR",
        r"[12378](?<![^\W_]\d)[ .-]?\d\d[ .-]?\d\d[ .-]?(?:\d\d|2[AB])[ .-]?\d{3}[ .-]?\d{3}[ .-]?\d\d",
        nir,
    ),
    _number("DE_TAX_ID", r"[1-9](?<![^\W_]\d)\d[ ./-]?\d{3}[ ./-]?\d{3}[ ./-]?\d{3}", steuer_id),
    _number(
        "US_SSN",
        r"\d(?<![^\W_]\d)\d\d(?:(?P<separator>[ -])\d\d(?P=separator)|-(?:\r?\n)?\d\d-(?:\r?\n)?)\d{4}",
        ssn,
    ),
    _number("UK_NINO", r"[A-Z]{2}[ -]?\d\d[ -]?\d\d[ -]?\d\d[ -]?[A-D]", nino),
    _number("ES_ID", r"(?:\d{8}|[XYZ][ -]?\d{7})[ -]?[A-Z]", dni),
    Addresses(),
    Phones(),
)
"""Those with a checksum before those without."""
