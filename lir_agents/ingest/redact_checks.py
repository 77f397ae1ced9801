"""Checksums by which a number that looks like an identifier is told from one that is not.

All take the bare characters, upper case, without separators.
"""

from __future__ import annotations

from collections import Counter

__all__ = [
    "IBAN_LENGTHS",
    "codice_fiscale",
    "dni",
    "iban",
    "luhn",
    "nino",
    "nir",
    "payment_card",
    "ssn",
    "steuer_id",
]

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
"""Length of an IBAN by country, SWIFT IBAN registry (ISO 13616)."""

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = ord(digit) - 48
        total += _DOUBLED[value] if place % 2 else value
    return total % 10 == 0


def _issued(digits: str) -> bool:
    length, four = len(digits), int(digits[:4])
    if digits[0] == "4":
        return length in (13, 16, 19)
    if 5100 <= four <= 5599 or 2221 <= four <= 2720:
        return length == 16
    if digits[:2] in ("34", "37"):
        return length == 15
    if digits[:2] in ("36", "38", "39") or 3000 <= four <= 3059:
        return 14 <= length <= 19
    return length >= 16 and (
        3528 <= four <= 3589 or digits[:2] in ("60", "62", "64", "65", "50", "56", "57", "58", "63", "67")
    )


def payment_card(digits: str) -> bool:
    """A number of 13 to 19 digits in a range that card networks issue, with a right Luhn digit."""
    return 13 <= len(digits) <= 19 and _issued(digits) and luhn(digits)


def iban(text: str) -> bool:
    """ISO 13616: the country's length and the remainder 1 modulo 97."""
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    number = "".join(str(int(char, 36)) for char in text[4:] + text[:4])
    return int(number) % 97 == 1


def ssn(digits: str) -> bool:
    """US Social Security number: no area 000, 666 or 9xx, no group 00, no serial 0000."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def nino(text: str) -> bool:
    """UK National Insurance number: prefixes that are never given out are excluded."""
    first, second = text[0], text[1]
    never = first in "DFIQUV" or second in "DFIQUVO" or text[:2] in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    return not never and text[-1] in "ABCD"


def steuer_id(digits: str) -> bool:
    """German tax identification number: ISO 7064 MOD 11,10, and one digit two or three times in the first ten."""
    most = sorted(Counter(digits[:10]).values(), reverse=True)
    if digits[0] == "0" or most[0] not in (2, 3) or most[1:2] not in ([], [1]):
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def nir(text: str) -> bool:
    """French social-security number: key 97 - number mod 97, with 2A and 2B of Corsica read as 19 and 18."""
    number = text[:13].replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(text[13:])


def dni(text: str) -> bool:
    """Spanish DNI and NIE: letter by the number modulo 23, X Y Z read as 0 1 2."""
    number = {"X": "0", "Y": "1", "Z": "2"}.get(text[0], text[0]) + text[1:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8,
                 12, 14, 16, 10, 22, 25, 24, 23), strict=True))  # fmt: skip


def codice_fiscale(text: str) -> bool:
    """Italian tax code: check letter by the tables of D.M. 23/12/1976."""
    odd = sum(_ODD[char] for char in text[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - 65 for char in text[1:15:2])
    return chr(65 + (odd + even) % 26) == text[15]
