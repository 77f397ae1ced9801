"""The commands of `lir` and their flags; each is carried out by the module of its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from lir_agents.cli.audit_app import audit
from lir_agents.cli.options import AsJson, IndexDir, Switch, examples, flow_help

__all__ = ["app"]

app = typer.Typer(
    name="lir",
    help="Late interaction retrieval for agents: index documents, ask, see why, prove it.",
    epilog="Start here: [bold]lir demo[/bold]",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(audit, name="audit")


class Access(StrEnum):
    """Who may read an index: everybody who can open it, or whom each document's ACL names."""

    OPEN = "open"
    ACL = "acl"


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from lir_agents import __version__

        typer.echo(f"lir {__version__}")
        raise typer.Exit


@app.command(epilog=examples("lir demo", "lir demo --index python.lir", "lir demo --no-pause"))
def demo(
    index: Annotated[
        Path | None,
        typer.Option("--index", metavar="DIR", help="Where to keep the index; a temporary directory if left out."),
    ] = None,
    pause: Annotated[
        bool, typer.Option(help="Wait for Enter between the turns, on a terminal.", show_default=False)
    ] = False,
) -> None:
    """Index the Python language reference and hold a short conversation over it.

    Shows ranked answers, why each surfaced, how memory and a tool's answer moved the ranking, and the audit log
    being verified. Needs no download and a minute or two.
    """
    from lir_agents.cli import demo as command

    raise typer.Exit(command.run(index, pause=pause))


@app.command(
    epilog=examples(
        "lir ingest handbook/ notes.md --index notes.lir",
        "lir ingest contracts/ --index firm.lir --access acl --acl group:legal,user:alice",
        "lir ingest export.jsonl --index notes.lir --json",
        "lir ingest letters/ --index letters.lir --redact",
    )
)
def ingest(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Files (md, txt, html, pdf, jsonl), folders, or a folder in the evaluation layout.",
            show_default=False,
        ),
    ],
    index: IndexDir,
    access: Annotated[
        Access | None,
        typer.Option(help="Who may read a new index; fixed when it is created (open if left out)."),
    ] = None,
    acl: Annotated[
        str | None,
        typer.Option(metavar="P1,P2", help="Grants that may read documents which carry no ACL of their own."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A model's path or hub name; the bundled all-MiniLM-L6-v2 if left out."),
    ] = None,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact",
            help="Store placeholders for e-mail addresses, card numbers, keys, …; fixed when an index is created.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add documents to an index; the same again costs nothing, a changed one becomes a new version.

    A file that cannot be read is reported with its reason and stops nothing else; the exit code then is 1.
    """
    from lir_agents.cli import ingest as command

    chosen: Literal["open", "acl"] | None = None if access is None else "acl" if access is Access.ACL else "open"
    raise typer.Exit(
        command.run(paths, index, access=chosen, acl=acl, encoder=encoder, redact=redact, as_json=as_json)
    )


@app.command(
    epilog=examples(
        'lir search "how many days off do I get?" --index notes.lir',
        'lir search "and in the first year?" --index notes.lir --thread t1 --explain',
        'lir search "salary bands" --index firm.lir --as user:alice,group:hr -k 3 --json',
        """lir search "release notes" --index notes.lir --filter '{"year": {"$gte": 2024}}'""",
    )
)
def search(
    query: Annotated[str, typer.Argument(help="What to ask, in plain words.", show_default=False)],
    index: IndexDir,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages to return.")] = 10,
    as_: Annotated[
        str | None, typer.Option("--as", metavar="P1,P2", help="Who asks: an id, then the groups it is in.")
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A conversation to remember this turn in, and to read it in the light of."),
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Only documents whose metadata matches.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(min=1.0, help="Answer within so many milliseconds, with what is ready by then.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show which words met, and what each part adds to a score.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask an index; the best passages come first."""
    from lir_agents.cli import search as command

    request = command.Request(
        query, k=k, grants=as_, thread=thread, filter_json=filter_, budget_ms=budget_ms, explain=explain
    )
    raise typer.Exit(command.run(request, index, as_json=as_json))


@app.command(
    name="eval",
    epilog=examples(
        "lir eval collections/scifact --split train",
        "lir eval collections/mtrag_govt --systems hybrid,lir --memory off --limit 50",
        "lir eval collections/scifact --split train --index scifact.lir --json result.json",
    ),
)
def eval_(
    dataset: Annotated[Path, typer.Argument(help="A folder in the evaluation layout.", show_default=False)],
    split: Annotated[
        str | None, typer.Option(help="Which judgements; dev, or the only ones there are, if left out.")
    ] = None,
    systems: Annotated[str, typer.Option(metavar="A,B", help="What to compare.")] = "bm25,dense,hybrid,maxsim,lir",
    memory: Annotated[Switch, typer.Option(help="Feed in the conversation so far.")] = Switch.ON,
    tools: Annotated[Switch, typer.Option(help="Feed in what tools answered.")] = Switch.ON,
    access: Annotated[Switch, typer.Option(help="Enforce the documents' ACLs.")] = Switch.ON,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Ask the first N queries only.")] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="DIR",
            help="Keep the index here; the next time, only what changed in the corpus is indexed. A temporary one "
            "if left out.",
        ),
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the result; - is standard output.")
    ] = None,
) -> None:
    """Measure ranking quality, leaks and latency on a dataset, side by side with simpler systems.

    Baselines over the same index: bm25, dense, hybrid (their rank fusion) and maxsim (hybrid's candidates by
    late interaction alone); lir is the product as you get it.
    """
    from lir_agents.cli import evaluate as command

    plan = command.Plan(
        dataset,
        split=split,
        systems=systems,
        memory=bool(memory),
        tools=bool(tools),
        access=bool(access),
        limit=limit,
    )
    raise typer.Exit(command.run(plan, index, json_file=as_json))


@app.command(
    epilog=examples("lir stats --index notes.lir", "lir stats --index notes.lir --last 10000 --json"),
)
def stats(
    index: IndexDir,
    last: Annotated[int, typer.Option(min=1, metavar="N", help="Look at the last N searches.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show what an index holds, and how long its last searches took, stage by stage.

    Works beside a process that has the index open, and after it has ended.
    """
    from lir_agents.cli import status as command

    raise typer.Exit(command.stats(index, last=last, as_json=as_json))


@app.command(
    epilog=examples("lir doctor", "lir doctor --index notes.lir", "lir doctor --index notes.lir --repair --json")
)
def doctor(
    index: Annotated[
        Path | None, typer.Option("--index", metavar="DIR", envvar="LIR_INDEX", help="Check this index as well.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again from the catalog what is damaged, missing or too much.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the installation and, if named, an index from end to end; exit code 1 if anything is wrong.

    Nothing is mended without --repair. What can be made from nothing else (catalog, audit log, what conversations
    said) is named with the next step and left as it is.
    """
    from lir_agents.cli import status as command

    if repair and index is None:
        raise typer.BadParameter("--repair needs --index DIR.")
    raise typer.Exit(command.doctor(index, repair=repair, as_json=as_json))


flow_help(app)
