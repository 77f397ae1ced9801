"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lir_agents.types import Principal

__all__ = ["AsJson", "IndexDir", "Switch", "examples", "flow_help", "names", "principal"]


class Switch(StrEnum):
    """on | off."""

    ON = "on"
    OFF = "off"

    def __bool__(self) -> bool:
        return self is Switch.ON


IndexDir = Annotated[
    Path,
    typer.Option("--index", metavar="DIR", envvar="LIR_INDEX", help="Directory of the index.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")]


def examples(*lines: str) -> str:
    """The last part of a command's help: lines that can be typed as they stand."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def flow_help(app: typer.Typer) -> None:
    """Has the help of an app's commands broken where the screen ends, not where the source breaks its lines."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def names(value: str | None) -> list[str]:
    """Reads `a,b,c`. Spaces around a name do not count; an empty name is wrong usage."""
    if value is None:
        return []
    found = [name.strip() for name in value.split(",")]
    if not all(found):
        raise typer.BadParameter(f"{value!r} holds an empty name; write them as a,b,c.")
    return found


def principal(grants: str | None) -> Principal | None:
    """Reads `--as alice,group:staff`: the first is who asks, the others are what else they hold."""
    from lir_agents.types import Principal

    found = names(grants)
    return Principal(found[0], groups=found[1:]) if found else None
