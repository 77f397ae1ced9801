"""Text to terms: what lexical search calls a word.

One analyser serves passages and queries, so both always agree. Its rules, each measured in
``docs/decisions/0001-lexical-search.md``:

- case and width do not matter (NFKC, casefold); accents on Latin letters do not either;
- words are stemmed by Snowball's English stemmer and function words are dropped;
- dotted and underscored names count whole *and* by their parts (``assert.deepEqual``, ``max_row``); numbers with
  dots count whole only (``19.9.0``, ``0.05``; a leading v is dropped: ``v19.9.0``);
- scripts that put no spaces between words are cut into character bigrams, Han also into single characters
  (Nie et al. 2000, *On the use of words and n-grams for Chinese information retrieval*).

Cost is linear in the length of the text and memory is bounded, whatever the text.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.metadata import version

import Stemmer

__all__ = ["MAX_TERM_CHARS", "STOP_WORDS", "Analyzer"]

MAX_TERM_CHARS = 64
"""Longer words are cut to this many characters, in passages and queries alike."""

_FUNCTION_WORDS = """
a about above after again against all am an and any are as at be because been before being below between both
but by can could did do does doing down during each few for from further had has have he her here him his how
i if in into is it its just me more most my no nor not now of off on once only or other our out over own same
she should so some such than that the their them then there these they this those through to too under until
up very was we were what when where which while who whom why will with would you your
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())

_SLAB_CHARS = 1 << 16
_RULES = "2"  # raise when a rule below changes, so that older indexes are rebuilt

# No run of letters can make these backtrack: every repetition is anchored by its own separator and bounded.
_PLAIN = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+){0,15}(?:'(?:s|t|d|m|re|ve|ll)\b)?")
_NAME_PARTS = re.compile(r"[._]+")
_NUMBER = re.compile(r"v?([0-9]+(?:\.[0-9]+)+)\Z")
_INVISIBLE = dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACELESS = (
    _HAN
    + "\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3040-\u30ff\u31f0-\u31ff\ua980-\uaadf\uac00-\ud7af"
)
_IS_HAN = re.compile(f"[{_HAN}]")
_IS_SPACELESS = re.compile(f"[{_SPACELESS}]")
_SCRIPT_RUNS = re.compile(f"[{_SPACELESS}]+|[^{_SPACELESS}]+")


class Analyzer:
    """The analyser of this package. Instances are interchangeable and safe to share between threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over everything that changes a term: rules, stop words, stemmer and Unicode tables."""
        parts = (
            _RULES,
            str(MAX_TERM_CHARS),
            " ".join(sorted(STOP_WORDS)),
            f"PyStemmer {version('PyStemmer')} english",
            f"Unicode {unicodedata.unidata_version}",
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def terms(self, text: str) -> Iterator[str]:
        """Yields the terms of a text with repetitions, in no promised order."""
        for slab in _slabs(text):
            yield from self._slab_terms(slab)

    def _slab_terms(self, slab: str) -> Iterator[str]:
        words: list[str] = []
        exact: list[str] = []
        if slab.isascii():
            for found in _PLAIN.findall(slab.lower()):
                _split(found, words, exact)
        else:
            for found in _wide_pattern().findall(_fold(slab)):
                _split_scripts(found, words, exact)
        yield from exact
        yield from self._stemmer.stemWords([word for word in words if word not in STOP_WORDS])

    @property
    def _stemmer(self) -> Stemmer.Stemmer:
        # A Stemmer carries mutable C state, so each thread has its own. Its cache is off: what has been indexed
        # must show neither in the time a query takes nor in memory after an erasure.
        stemmer = getattr(self._local, "stemmer", None)
        if stemmer is None:
            stemmer = self._local.stemmer = Stemmer.Stemmer("english", 0)
        return stemmer


def _slabs(text: str) -> Iterator[str]:
    """Cuts a long text at spaces into pieces of bounded size; a run without any space is cut where it must be."""
    start = 0
    while len(text) - start > _SLAB_CHARS:
        end = start + _SLAB_CHARS
        space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = space if space > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _fold(text: str) -> str:
    """NFKC and casefold; accents on Latin letters are dropped, marks of other scripts are letters and stay."""
    # Normalisation sorts runs of combining marks in quadratic time: keep the 30 that UAX #15 calls stream-safe.
    text = _long_mark_runs().sub(lambda run: run.group()[:30], text.translate(_INVISIBLE))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return text.translate(_APOSTROPHES)


def _split(found: str, words: list[str], exact: list[str]) -> None:
    """Sorts one match into words to stem and names or numbers to keep as they are."""
    if found.isalnum():
        words.append(found[:MAX_TERM_CHARS])
        return
    stem, apostrophe, ending = found.partition("'")
    if apostrophe:
        if ending == "t" and stem.endswith("n"):
            return  # don't, isn't, won't: function words, all of them
        found = stem
    number = _NUMBER.match(found)
    if number:
        exact.append(number.group(1)[:MAX_TERM_CHARS])
        return
    parts = [part[:MAX_TERM_CHARS] for part in _NAME_PARTS.split(found) if part]
    if len(parts) > 1:
        exact.append(found.strip("._")[:MAX_TERM_CHARS])
    words.extend(parts)


def _split_scripts(found: str, words: list[str], exact: list[str]) -> None:
    """As `_split`, for a match that may mix scripts."""
    for run in _SCRIPT_RUNS.findall(found):
        if _IS_SPACELESS.match(run):
            exact.extend(run[i : i + 2] for i in range(len(run) - 1))
            exact.extend(run if len(run) == 1 else _IS_HAN.findall(run))
        else:
            _split(run if run.isascii() else _without_accents(run), words, exact)


def _without_accents(word: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFD", word) if not "\u0300" <= c <= "\u036f")
    return bare if bare.isascii() else word


@cache
def _marks() -> str:
    """Character class of combining marks: letter classes of `re` leave them out, and would cut Hindi apart."""
    marks = [c for c in range(0x300, 0x20000) if unicodedata.category(chr(c)) in ("Mn", "Mc")]
    starts = [c for c in marks if unicodedata.category(chr(c - 1)) not in ("Mn", "Mc")]
    ends = [c for c in marks if unicodedata.category(chr(c + 1)) not in ("Mn", "Mc")]
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in zip(starts, ends, strict=True))


@cache
def _long_mark_runs() -> re.Pattern[str]:
    return re.compile(f"[{_marks()}]{{31,}}")


@cache
def _wide_pattern() -> re.Pattern[str]:
    letter = rf"[\w{_marks()}]"
    return re.compile(rf"{letter}+(?:\.{letter}+){{0,15}}(?:'(?:s|t|d|m|re|ve|ll)\b)?")
