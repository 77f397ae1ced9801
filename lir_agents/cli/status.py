"""`lir stats` and `lir doctor`: what an index holds, and whether everything works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.console import printable
from lir_agents.errors import LirError

if TYPE_CHECKING:
    from lir_agents.repairing import RepairReport

__all__ = ["Check", "doctor", "stats"]

_WIDTH = 68
"""Columns of text that the whole table of latencies takes; narrower screens get fewer figures, each of them whole.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of `lir doctor`."""

    check: str
    ok: bool
    detail: str


def stats(index_dir: Path, *, last: int = 1000, as_json: bool) -> int:
    """Prints what the index holds and how its last searches went, without opening it."""
    from lir_agents import watching

    held = watching.holdings(index_dir)
    held["backend"] = _backend(held.get("encoder"))
    searched = watching.searches(index_dir, last=last)
    if as_json:
        console.emit_json({**held, "latency": searched})
        return console.DONE
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, value in held.items():
        table.add_row(Text(name.replace("_", " "), style="bold"), Text(_readable(name, value), overflow="fold"))
    console.out().print(table)
    if searched["searches"]:
        _print_searches(searched)
    return console.DONE


def _backend(name: str | None) -> str:
    """What encodes on this machine and why, with the settings as they are here."""
    from lir_agents.config import load_settings
    from lir_agents.encoding.base import QueryText
    from lir_agents.encoding.open import open_encoder

    try:
        encoder = open_encoder(name, settings=load_settings().encoder)
        encoder.encode_queries([QueryText("which is it?")])  # the first text decides
    except LirError as error:
        return f"not known here: {error}"
    return str(getattr(encoder, "backend", "torch"))


def _print_searches(searched: Mapping[str, Any]) -> None:
    screen = console.out(width=_WIDTH)
    wide = screen.width >= _WIDTH
    percents = ("p50", "p95", "p99") if wide else ("p50", "p99")
    table = Table(box=box.SIMPLE_HEAD)
    count = searched["searches"]
    table.add_column("the last search" if count == 1 else f"the last {count:,} searches", overflow="fold")
    for name in (*(f"{percent} ms" for percent in percents), *(("searches",) if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, taken in {**searched["stages_ms"], "whole, until recorded": searched["whole_ms"]}.items():
        figures = [f"{taken[percent]:,.1f}" for percent in percents]
        if wide:
            figures.append(f"{taken['count']:,}")
        table.add_row(Text(printable(stage), style="bold"), *figures)
    screen.print(table)
    missed = [
        f"{stage} {status.replace('_', ' ')} {console.counted(count, 'time')}"
        for stage, counts in searched["fallbacks"].items()
        for status, count in counts.items()
    ]
    console.out().print(
        f"Left out: {', '.join(missed) or 'nothing'}. Refused: {searched['refused']:,}.", soft_wrap=True
    )


def _readable(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_readable(str(key), item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value / 2**20:,.1f} MiB" if name.endswith("bytes") else f"{value:,}"
    return printable(str(value))


def doctor(index_dir: Path | None, *, repair: bool = False, as_json: bool) -> int:
    """Runs every check, mends what it may, says what each found; 1 if anything is still wrong."""
    parts = {"python": _python, "libraries": _libraries, "scoring": _scoring, "bundled encoder": _encoder}
    findings = [_run(name, check) for name, check in parts.items()]
    report = None
    if index_dir is not None:
        found, report = _index(index_dir, repair=repair)
        findings.append(found)
    ok = all(finding.ok for finding in findings)
    if as_json:
        shown: dict[str, Any] = {"ok": ok, "checks": [asdict(finding) for finding in findings]}
        if report is not None:
            shown["index"] = asdict(report)
        console.emit_json(shown)
    else:
        for finding in findings:
            mark = Text("✔ ", style="green") if finding.ok else Text("✘ ", style="red")
            console.out().print(mark.append(f"{finding.check:<16}", style="bold").append(printable(finding.detail)))
        _print_report(report)
    return console.DONE if ok else console.FAILED


def _print_report(report: RepairReport | None) -> None:
    for wrong in report.findings if report is not None else ():
        left = report is not None and wrong in report.left
        line = Text("  ✘ " if left else "  ✔ ", style="red" if left else "green")
        line.append(f"{wrong.store:<10}", style="bold").append(printable(wrong.problem).rstrip("."))
        console.out().print(line.append(f". {wrong.remedy}" if left else ": mended"), soft_wrap=True)


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Exception as error:  # noqa: BLE001  a doctor reports whatever it meets, and goes on
        return Check(name, False, f"{type(error).__name__}: {error}")


def _python() -> str:
    return sys.version.split()[0]


def _libraries() -> str:
    from importlib import import_module

    names = ("torch", "chromadb", "lmdb", "sentence_transformers", "langgraph", "Stemmer", "selectolax", "pypdf")
    loaded = [(name, getattr(import_module(name), "__version__", "")) for name in names]
    return ", ".join(f"{name} {version}".strip() for name, version in loaded)


def _scoring() -> str:
    from lir_agents.native.library import paths

    if ways := paths():
        return f"compiled, by {ways[-1]}"
    return (
        "in torch, the scan of vectors and the making of codes in NumPy, slower: no library was compiled that runs "
        "here. Install it again where there is a C compiler"
    )


def _encoder() -> str:
    from lir_agents.encoding.base import QueryText
    from lir_agents.encoding.open import open_encoder

    encoder = open_encoder()
    (encoding,) = encoder.encode_queries([QueryText("does it work?")])
    return (
        f"{encoder.name}, {encoding.tokens.shape[1]} dimensions, weights {encoder.fingerprint[:12]}; "
        f"in {getattr(encoder, 'backend', 'torch')}"
    )


def _index(index_dir: Path, *, repair: bool) -> tuple[Check, RepairReport | None]:
    from lir_agents import repairing

    try:
        with _progress() as progress:
            if repair:
                report = repairing.repair(index_dir, progress=progress)
            else:
                wrong = repairing.inspect(index_dir, progress=progress)
                report = repairing.RepairReport(wrong, wrong)
    except LirError as error:
        return Check("index", False, f"{type(error).__name__}: {error}"), None
    if not report.ok:
        damaged = ", ".join(dict.fromkeys(finding.store for finding in report.left))
        return Check("index", False, f"damaged: {damaged}"), report
    if report.findings:
        return Check("index", True, f"mended (event {report.event_id}), nothing wrong now"), report
    return Check("index", True, "every text, vector and list of words is where it belongs"), report


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar, or lines, for each thing that is done; none for what is done at once."""
    with ExitStack() as shown:
        advances: dict[str, Callable[[int, int], None]] = {}

        def progress(doing: str, done: int, total: int) -> None:
            if doing not in advances and done < total:
                shown.close()
                advance = shown.enter_context(console.progress(doing, unit="passages", total=total))
                advances.clear()
                advances[doing] = console.committed(advance)
            if doing in advances:
                advances[doing](done, total)

        yield progress
