"""`lir audit`: read, check and export the event log. Works beside a process that owns the index."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.console import printable
from lir_agents.errors import InputError

if TYPE_CHECKING:
    from lir_agents.audit.events import RecordedEvent
    from lir_agents.audit.log import AuditLog
    from lir_agents.audit.verify import VerifyReport

__all__ = ["checkpoint", "export", "log", "show", "verify"]

_PAGE = 1_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WIDTH = 160
"""Columns of text from which on an event has a row of its own; narrower screens show what happened below it."""


def log(index_dir: Path, number: int, *, as_json: bool) -> int:
    """Prints the newest events, oldest of them first."""
    with _open(index_dir) as audit:
        newest = deque(_events(audit), maxlen=number)
    if as_json:
        console.emit_json([_event_json(event) for event in newest])
        return console.DONE
    screen = console.out(width=_WIDTH)
    if screen.width >= _WIDTH:
        screen.print(_log_table(newest))
    else:
        for event in newest:
            screen.print(Text("  ").join(_text(cell) for cell in _cells(event) if cell))
            if what := _what(event):
                screen.print(Padding(_text(what), (0, 0, 0, 4)))
    return console.DONE


def _log_table(events: Iterable[RecordedEvent]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("event", "time (UTC)", "kind"):
        table.add_column(column, no_wrap=True)
    table.add_column("principal", overflow="fold", max_width=30)
    table.add_column("what", overflow="fold")
    for event in events:
        table.add_row(*map(_text, (*_cells(event), _what(event))))
    return table


def _cells(event: RecordedEvent) -> tuple[str, ...]:
    return (event.event_id, event.time[:19], event.kind, event.principal_id)


def _what(event: RecordedEvent) -> str:
    """What of an event fits into a line; `lir audit show` has everything."""
    told = {key: str(value) for key, value in event.payload.items() if not isinstance(value, dict | list | None)}
    return ", ".join(f"{key}={value}" for key, value in told.items() if not _DIGEST.fullmatch(value))


def show(index_dir: Path, event_id: str, *, as_json: bool) -> int:
    """Prints one event with everything that is known of it."""
    with _open(index_dir) as audit:
        described = audit.show(event_id)
    if as_json:
        console.emit_json(described)
    else:
        from rich.pretty import Pretty

        console.out().print(Pretty(_safe(described), expand_all=False))
    return console.DONE


def verify(index_dir: Path, against: Path | None, key: Path | None, *, as_json: bool) -> int:
    """Recomputes the log; 1 if anything does not fit."""
    with _open(index_dir) as audit:
        report = _verify(audit, against, key or _key(index_dir))
    if as_json:
        problems = [
            {"code": problem.code, "detail": problem.detail, "position": problem.position}
            for problem in report.problems
        ]
        console.emit_json({"ok": report.ok, "events": report.size, "root": report.root, "problems": problems})
    else:
        _print_report(report, against)
    return console.DONE if report.ok else console.FAILED


def checkpoint(index_dir: Path, key: Path | None) -> int:
    """Prints a signed checkpoint."""
    from lir_agents.audit.keys import load_or_create_key

    with _open(index_dir) as audit:
        console.emit_json_text(audit.checkpoint(load_or_create_key(key or _key(index_dir))).json())
    return console.DONE


def public_key(key: Path) -> int:
    """Prints the public half of the signing key, in PEM."""
    from lir_agents.audit.keys import load_or_create_key, public_pem

    sys.stdout.write(public_pem(load_or_create_key(key)))
    return console.DONE


def export(index_dir: Path) -> int:
    """Prints every event, one JSON object a line."""
    with _open(index_dir) as audit:
        for line in audit.export():
            console.emit_json_text(line.rstrip("\n"))
    return console.DONE


def _open(index_dir: Path) -> AuditLog:
    from lir_agents.audit.log import AuditLog
    from lir_agents.stores.layout import IndexLayout

    file = IndexLayout(index_dir).audit
    if not file.is_file():
        raise InputError(f"{index_dir} holds no audit log", field="index", remedy="Name an index directory.")
    return AuditLog.open(file, read_only=True)


def _key(index_dir: Path) -> Path:
    return index_dir / "audit.key"


def _events(audit: AuditLog) -> Iterator[RecordedEvent]:
    after: str | None = None
    while page := audit.events(limit=_PAGE, after=after):
        yield from page
        after = page[-1].event_id


def _verify(audit: AuditLog, against: Path | None, key: Path) -> VerifyReport:
    if against is None:
        return audit.verify()
    from lir_agents.audit.checkpoint import Checkpoint
    from lir_agents.audit.keys import load_verifying_key

    try:
        kept = Checkpoint.parse(against.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(
            f"{against} cannot be read ({why})", field="against", remedy="Name a checkpoint."
        ) from error
    return audit.verify(kept, load_verifying_key(key))


def _print_report(report: VerifyReport, against: Path | None) -> None:
    screen = console.out()
    if report.ok:
        screen.print(Text(f"✔ {report.size:,} events, every one as it was recorded", style="green"))
        screen.print(Text(f"  root {report.root}", style="dim"))
        if against is None:
            hint = "  A log rewritten as a whole shows only against a checkpoint kept elsewhere: --against FILE"
            screen.print(Text(hint, style="dim"))
        return
    for problem in report.problems:
        screen.print(Text(f"✘ {problem.code}: {printable(problem.detail)}", style="red"))


def _event_json(event: RecordedEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "position": event.position,
        "time": event.time,
        "kind": event.kind,
        "principal": event.principal_id,
        "tenant": event.tenant,
        "payload": event.payload,
    }


def _text(value: str) -> Text:
    return Text(" ".join(printable(value).split()))


def _safe(value: Any) -> Any:
    """The same data with every string printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_safe(key): _safe(item) for key, item in value.items()}
    return [_safe(item) for item in value] if isinstance(value, list | tuple) else value
