"""A recogniser that is one regular expression, a check, and a canonical form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lir_agents.ingest.redact_base import Match

__all__ = ["Pattern", "bare"]

_SEPARATORS = re.compile(r"[\s.\-/()]+")


def bare(text: str) -> str:
    """Upper case, without separators: how numbers are compared and checked."""
    return _SEPARATORS.sub("", text).upper()


def _anything(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Pattern:
    """Finds what `pattern` matches and `check` accepts.

    To stay linear on hostile text, repetitions are either bounded or possessive, and a match that fails its
    check is left behind: at its second character where it is `bounded`, at its end where it is not. Nothing
    that borders on a match may be a letter or a digit, so that replacing it cannot turn its neighbours into
    matches: redacting twice changes nothing.

    Args:
        kind: What it finds.
        pattern: Group "it", where there is one, is what is replaced; the rest is context.
        check: Gets the canonical form.
        canonical: By which values are compared.
        hints: Strings of which a text must hold one to be worth searching: a look for them is nearly free.
        bounded: Whether the length of a match is bounded by a constant.
    """

    kind: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = _anything
    canonical: Callable[[str], str] = str
    hints: tuple[str, ...] = ()
    bounded: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind,)

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        if self.hints and not any(hint in shadow for hint in self.hints):
            return
        group = "it" if "it" in self.pattern.groupindex else 0
        found = self.pattern.search(shadow)
        while found:
            value = self.canonical(found[group])
            if self.check(value):
                yield Match(self.kind, found.start(group), found.end(group), value)
                resume = found.end()
            else:
                resume = found.start() + 1 if self.bounded else found.end()
            found = self.pattern.search(shadow, max(resume, found.start() + 1))
