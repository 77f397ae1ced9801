"""Output that its stream cannot spell is no reason to fail: a bar in cp1252, half a surrogate pair in UTF-8."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

__all__ = ["accept_everything"]

_PLAIN = str.maketrans("█━…·—→✔✘▲▼", "#=.-->+x^v")
"""What stands for the signs of our own, one for one: columns stay where they are."""


def accept_everything() -> None:
    """Has standard output and standard error take every character, as something else where they must."""
    codecs.register_error("lir.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lir.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(char if char.isascii() else _marks(char) for char in found), error.end


def _marks(char: str) -> str:
    """As many question marks as the character takes columns."""
    return "?" * (2 if unicodedata.east_asian_width(char) in "WF" else 1)
