"""What every command shares: where output goes, progress, errors, and text made safe for a terminal."""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from lir_agents.errors import AccessDenied, ConfigError, InputError, LirError

__all__ = [
    "DONE",
    "FAILED",
    "REFUSED",
    "USAGE",
    "committed",
    "counted",
    "emit_json",
    "emit_json_text",
    "err",
    "out",
    "printable",
    "progress",
    "report_error",
    "report_failure",
]

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
_LINE_EVERY_S = 5.0
"""Seconds between progress lines where there is no terminal."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def out(*, width: int = 0) -> Console:
    """Standard output, for what was asked for. A file or a pipe is as wide as it needs to be: at least `width`."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = max(screen.width, width)
    return screen


def err() -> Console:
    """Standard error, for progress, notes and errors."""
    return Console(stderr=True, highlight=False)


def emit_json(document: Any) -> None:
    """Writes one JSON document to standard output."""
    emit_json_text(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))


def emit_json_text(text: str) -> None:
    """Writes JSON to standard output as it stands, or in escapes, which read back the same."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, in an id or a file's name; or a terminal without Unicode
        text = _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def counted(count: int, what: str) -> str:
    """So many of something, in words: `1 hit`, `1,200 hits`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def exit_code(error: LirError) -> int:
    """3 for a refusal by policy, 2 where the caller has to ask differently, 1 for everything else."""
    if isinstance(error, AccessDenied):
        return REFUSED
    return USAGE if isinstance(error, InputError | ConfigError) else FAILED


def report_error(error: LirError) -> int:
    """Prints an error as one line, remedy included, and gives its exit code."""
    what = str(error).removesuffix(error.remedy).rstrip()
    stop = "" if what.endswith((".", "!", "?", ":")) or not error.remedy else "."
    _complain(f"{what}{stop} {error.remedy}")
    return exit_code(error)


def report_failure(error: OSError) -> int:
    """Prints what the system refused, and gives the exit code."""
    _complain(f"{error}. Set LIR_DEBUG=1 to see where it came from.")
    return FAILED


def _complain(text: str) -> None:
    line = " ".join(printable(text).split())
    err().print(Text.assemble(("lir: ", "bold red"), (line, "red")), soft_wrap=True)


def printable(text: str) -> str:
    r"""Text with everything that could steer a terminal or reorder a line made visible as "\ufffd".

    Documents, ids and tool outputs come from anywhere: escape sequences, control characters and bidirectional
    overrides in them must not reach the screen. Line feeds and tabs stay.
    """
    return "".join(char if _is_safe(char) else "\ufffd" for char in text.replace("\r\n", "\n"))


def _is_safe(char: str) -> bool:
    # the two joiners are part of how Persian, Indic scripts and emoji are spelt
    return char.isprintable() or char in "\n\t\u200c\u200d" or unicodedata.category(char) == "Zs"


@contextmanager
def progress(label: str, *, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line now and then elsewhere, both on standard error.

    Args:
        label: What is being done.
        unit: What is counted, in the plural.
        total: How many there will be, where it is known.

    Yields:
        Call it with the number done since the last call.
    """
    console = err()
    with _bar(console, label, total) if console.is_terminal else _lines(console, label, unit, total) as advance:
        yield advance


@contextmanager
def _bar(console: Console, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, advance=done)


@contextmanager
def _lines(console: Console, label: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    count = 0
    of = f" of {total:,}" if total is not None else ""

    def advance(done: int) -> None:
        nonlocal count, last
        count += done
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            console.print(f"{label}: {count:,}{of} {unit}", soft_wrap=True)

    yield advance
    console.print(f"{label}: {count:,} {unit} in {time.monotonic() - start:.1f} s", soft_wrap=True)


def committed(advance: Callable[[int], None]) -> Callable[[int, int], None]:
    """A progress of `LateInteractionIndex.add`, which counts from the start, as steps of `progress`."""
    done = 0

    def report(documents: int, _passages: int) -> None:
        nonlocal done
        advance(documents - done)
        done = documents

    return report
