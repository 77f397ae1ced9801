"""The commands of `lir audit` and their flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lir_agents.cli.options import AsJson, IndexDir, examples, flow_help

__all__ = ["audit"]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        envvar="LIR_AUDIT_KEY",
        help="The signing key; made where there is none. Keep it off the machine that writes the log: audit.key in "
        "the index directory, if left out.",
        show_default=False,
    ),
]

audit = typer.Typer(
    help="The immutable log of everything that was asked, answered and changed.",
    epilog=examples("lir audit log --index notes.lir", "lir audit verify --index notes.lir"),
    no_args_is_help=True,
)


@audit.command("log", epilog=examples("lir audit log --index notes.lir -n 20"))
def audit_log(
    index: IndexDir,
    number: Annotated[int, typer.Option("-n", min=1, help="How many of the newest events.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest events, oldest of them first."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.log(index, number, as_json=as_json))


@audit.command("show", epilog=examples("lir audit show 8f1c… --index notes.lir"))
def audit_show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="An event's id.", show_default=False)],
    index: IndexDir,
    as_json: AsJson = False,
) -> None:
    """Show one event: who asked, what surfaced, why, and from which versions."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.show(index, event, as_json=as_json))


@audit.command(
    "replay",
    epilog=examples(
        "lir audit replay 8f1c… --index notes.lir", "lir audit replay 8f1c… --index firm.lir --as user:uma,group:hr"
    ),
)
def audit_replay(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="A search's event id.", show_default=False)],
    index: IndexDir,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="ID,GRANT,…",
            help="Who replays, and what they hold: passages they may not read are not named.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask again what was asked, over the same versions, under the same grants; exit code 1 if anything differs."""
    from lir_agents.cli import replay as command

    raise typer.Exit(command.run(index, event, as_, as_json=as_json))


@audit.command(
    "verify",
    epilog=examples(
        "lir audit verify --index notes.lir --against kept.json",
        "lir audit verify --index notes.lir --against kept.json --key public.pem",
    ),
)
def audit_verify(
    index: IndexDir,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A checkpoint kept elsewhere: also shows a log rewritten as a whole."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            envvar="LIR_AUDIT_KEY",
            help="The key that signed the checkpoint, or its public half: audit.key in the index directory, if "
            "left out.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every entry and the chain that ties them; exit code 1 if the log was tampered with."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.verify(index, against, key, as_json=as_json))


@audit.command(
    "checkpoint",
    epilog=examples(
        "lir audit checkpoint --index notes.lir > kept.json",
        "lir audit checkpoint --index notes.lir --key /media/stick/signing.pem > kept.json",
    ),
)
def audit_checkpoint(index: IndexDir, key: KeyFile = None) -> None:
    """Print a signed checkpoint, as JSON: keep it where nobody who can write the index can write."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.checkpoint(index, key))


@audit.command("key", epilog=examples("lir audit key --key ~/signing.pem > public.pem"))
def audit_key(
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", envvar="LIR_AUDIT_KEY", help="The signing key.", show_default=False),
    ],
) -> None:
    """Print the public half of a signing key, made where there is none: verifying needs no more than that."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.public_key(key))


@audit.command("export", epilog=examples("lir audit export --index notes.lir > events.jsonl"))
def audit_export(index: IndexDir) -> None:
    """Print every event, one JSON object a line."""
    from lir_agents.cli import audit as command

    raise typer.Exit(command.export(index))


flow_help(audit)
