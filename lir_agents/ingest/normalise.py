r"""One spelling for every text: what is stored, split, hashed and cited is the normalised text.

- bytes: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 by theirs. Anything else is refused with the
  place of the first bad byte; guessing an encoding would store mojibake that nobody notices.
- surrogates inside a `str`: pairs are joined, lone halves become U+FFFD, so that every text can be written as
  UTF-8.
- line ends: CR LF, CR, VT, FF, NEL, LS and PS become ``\n``.
- control characters other than tab and newline are dropped, and so is a leading byte order mark.
- Unicode: NFC (UAX #15), after breaking runs of more than 30 combining marks as its Stream-Safe Text Process
  does, since normalising such a run takes time quadratic in its length.
"""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from functools import cache

from lir_agents.errors import InputError

__all__ = ["decode_text", "mend_surrogates", "normalise_line", "normalise_text"]

_MARKS = (  # longest first: the UTF-32 mark begins like the UTF-16 one
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_RUN = 30  # combining marks in a row, UAX #15 section 13
_GRAPHEME_JOINER = "\u034f"


def decode_text(data: bytes, *, encoding: str = "") -> str:
    """Bytes to text, strictly.

    Args:
        data: The whole content of a file.
        encoding: What the content itself declares; a byte order mark wins over it. Empty: UTF-8.

    Raises:
        InputError: The bytes are not text in that encoding; the message says where, and what helps.
    """
    name = next((name for mark, name in _MARKS if data.startswith(mark)), encoding or "utf-8")
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"byte {error.start} (line {line}) is not {name.upper()}: {error.reason}",
            field="text",
            remedy="Convert the file, e.g. with: iconv -f WINDOWS-1252 -t UTF-8.",
        ) from None
    if "\0" in text:
        raise InputError(
            f"holds a NUL character at offset {text.index(chr(0))}",
            field="text",
            remedy="This looks like a binary file; give text.",
        )
    return text


def normalise_text(text: str) -> str:
    """The normalised form of a text; see the module. Idempotent, linear in the length."""
    text = mend_surrogates(text).removeprefix("\ufeff")
    text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
    if text.isascii():
        return text
    # Twice: before, because of the time; after, because letters that NFC takes apart can lengthen a run again.
    text = unicodedata.normalize("NFC", _long_runs().sub(_break_run, text))
    return _long_runs().sub(_break_run, text)


def normalise_line(text: str) -> str:
    """The normalised form of a title: one line, single spaces, trimmed."""
    return " ".join(normalise_text(text).split())


def mend_surrogates(text: str) -> str:
    """Joins surrogate pairs and replaces lone halves by U+FFFD; other texts come back as they are."""
    if not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@cache
def _long_runs() -> re.Pattern[str]:
    """Runs of combining marks too long to be anybody's writing; built once, when a text first needs it."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code)))
    return re.compile(f"[{re.escape(marks)}]{{{_LONGEST_RUN + 1},}}")


def _break_run(run: re.Match[str]) -> str:
    marks = run.group()
    return _GRAPHEME_JOINER.join(marks[i : i + _LONGEST_RUN] for i in range(0, len(marks), _LONGEST_RUN))
