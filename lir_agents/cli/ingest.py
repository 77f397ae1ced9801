"""`lir ingest`: files and folders into an index, with a word on every one that could not be read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.console import counted, printable
from lir_agents.cli.options import names
from lir_agents.errors import InputError
from lir_agents.reports import Failure
from lir_agents.types import Document

if TYPE_CHECKING:
    from lir_agents.reports import AddReport

__all__ = ["run"]

_LISTED = 20
"""Failures that are listed on a terminal; `--json` holds all of them."""


def run(
    paths: Sequence[Path],
    index_dir: Path,
    *,
    access: Literal["open", "acl"] | None,
    acl: str | None,
    encoder: str | None,
    redact: bool,
    as_json: bool,
) -> int:
    """Adds what the paths hold; 1 if anything of it failed.

    Raises:
        InputError: None of the paths exists; no index was made.
    """
    grants = names(acl)
    if not any(path.exists() for path in paths):
        raise InputError(f"{paths[0]} does not exist", field="path", remedy="Name files or folders.")
    from lir_agents.engine import LateInteractionIndex
    from lir_agents.ingest.files import read_sources

    skipped: list[Failure] = []
    found = read_sources(paths, on_skip=lambda name, reason: skipped.append(Failure(name, reason)))
    start = time.monotonic()
    chosen = access or ("acl" if grants else None)
    with LateInteractionIndex.open(
        index_dir, access=chosen, encoder=encoder, redactor=True if redact else None
    ) as index:
        with console.progress("indexing", unit="documents") as advance:
            report = index.add(_with_acl(found, grants), progress=console.committed(advance))
        seconds = time.monotonic() - start
    if as_json:
        console.emit_json(_report_json(report, skipped, index_dir, seconds))
    else:
        _print_report(report, skipped, index_dir, seconds)
    return console.DONE if report.ok else console.FAILED


def _with_acl(found: Iterable[Document | Failure], grants: list[str]) -> Iterator[Document | Failure]:
    """Gives the readers named on the command line to documents that name none themselves."""
    for item in found:
        if grants and isinstance(item, Document) and item.acl is None:
            yield replace(item, acl=grants)
        else:
            yield item


def _report_json(
    report: AddReport, skipped: Sequence[Failure], index_dir: Path, seconds: float
) -> dict[str, object]:
    return {
        "index": str(index_dir),
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "passages": report.passages,
        "failed": [{"id": failure.id, "reason": failure.reason} for failure in report.failed],
        "skipped": [{"id": failure.id, "reason": failure.reason} for failure in skipped],
        "seconds": round(seconds, 3),
    }


def _print_report(report: AddReport, skipped: Sequence[Failure], index_dir: Path, seconds: float) -> None:
    screen = console.out()
    counts = f"{report.added:,} added, {report.updated:,} updated, {report.unchanged:,} unchanged"
    screen.print(Text(f"{counts}; {counted(report.passages, 'new passage')} in {seconds:.1f} s"), soft_wrap=True)
    for failure in report.failed[:_LISTED]:
        line = " ".join(f"{printable(failure.id)}: {printable(failure.reason)}".split())
        screen.print(Text.assemble(("✘ ", "bold red"), (line, "red")), soft_wrap=True)
    if len(report.failed) > _LISTED:
        screen.print(Text(f"✘ and {len(report.failed) - _LISTED:,} more failed", style="red"))
    if skipped:
        first = f"{printable(skipped[0].id)} ({printable(skipped[0].reason)})"
        others = f" and {len(skipped) - 1:,} more" if len(skipped) > 1 else ""
        screen.print(Text(f"passed over: {first}{others}", style="dim"), soft_wrap=True)
    if report.added or report.updated:
        screen.print(Text(f'next: lir search "…" --index {quote(str(index_dir))}', style="dim"), soft_wrap=True)
