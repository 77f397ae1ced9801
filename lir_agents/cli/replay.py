"""`lir audit replay`: a recorded search asked again, and whether the answer is the same."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.console import counted, printable
from lir_agents.cli.options import principal
from lir_agents.errors import InputError

if TYPE_CHECKING:
    from lir_agents.policy import Policy
    from lir_agents.replaying import Difference, ReplayReport
    from lir_agents.types import Principal

__all__ = ["run"]


def run(index_dir: Path, event_id: str, grants: str | None, *, as_json: bool) -> int:
    """Replays and prints; 1 where the answer is not the same."""
    from lir_agents.engine import LateInteractionIndex

    asker = principal(grants)
    access = _with_right(index_dir, asker)
    with LateInteractionIndex.open(index_dir, access=access, create=False) as index:
        report = index.replay(event_id, principal=asker)
    if as_json:
        console.emit_json(asdict(report))
    else:
        _show(report)
    return console.DONE if report.same else console.FAILED


def _with_right(index_dir: Path, asker: Principal | None) -> Policy | None:
    """Whoever can open the directory holds everything in it: at the command line, the right to replay is theirs.
    Which passages are named still depends on what `--as` may read."""
    from lir_agents.policy import AclPolicy
    from lir_agents.stores.catalog import Catalog
    from lir_agents.stores.layout import IndexLayout

    file = IndexLayout(index_dir).catalog
    if not file.is_file():
        raise InputError(f"{index_dir} holds no index", field="index", remedy="Name an index directory.")
    with Catalog.open(file, create=False, read_only=True) as catalog:
        governed = catalog.get_meta("access") == AclPolicy.name
    return AclPolicy(rights={"replay": [asker.id] if asker else []}) if governed else None


def _show(report: ReplayReport) -> None:
    screen = console.out()
    if report.same:
        places = counted(len(report.recorded), "hit")
        screen.print(Text(f"✔ the same: {places}, ranks and scores, at epoch {report.epoch}", style="green"))
    else:
        screen.print(Text(f"✘ not the same, at epoch {report.epoch}", style="red"))
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("what", "passage", "then", "now"):
            table.add_column(column, overflow="fold")
        for difference in report.differences:
            table.add_row(*_cells(difference))
        screen.print(table)
    for note in report.notes:
        screen.print(Text(f"note: {printable(note)}", style="yellow"))
    screen.print(Text(f"recorded as {report.replay_id}", style="dim"))


def _cells(difference: Difference) -> tuple[Text, ...]:
    hidden = "(erased)" if difference.kind == "erased" else "(not yours to read)"
    numbers = ("" if value is None else f"{value:.6g}" for value in (difference.recorded, difference.replayed))
    return tuple(Text(printable(cell)) for cell in (difference.kind, difference.passage_id or hidden, *numbers))
