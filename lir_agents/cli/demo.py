"""`lir demo`: a conversation over documents that every machine has, by the public API alone."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from lir_agents.bindings import ToolBinding
from lir_agents.cli import console, render
from lir_agents.config import IngestSettings, Settings
from lir_agents.types import ToolSignal

if TYPE_CHECKING:
    from lir_agents.engine import LateInteractionIndex
    from lir_agents.types import SearchResult

__all__ = ["run"]

_THREAD = "demo"
_SHOWN = 3
_POOL = 20
"""Hits compared to say how a rank moved."""


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the conversation; with `tool`, the agent calls a tool before it searches."""

    question: str
    lesson: str
    tool: bool = False


STEPS = (
    Step(
        "Which statement closes a file for me, even after an exception?",
        "A first question, alone: late interaction, dense and lexical evidence are fused, and each part is kept.",
    ),
    Step(
        "And if there are several of them?",
        "By itself this turn says nothing. The thread remembers what it is about; nothing is pasted into a prompt.",
    ),
    Step(
        "How do I limit how many tasks use a resource at the same time?",
        "A new topic, and the agent looks at what runs here first. The tool's answer names a module, a binding "
        "says which documents that means, and their scores are lifted by a part of their own.",
        tool=True,
    ),
    Step(
        "And how do I give up after a few seconds?",
        "The thread still knows what is waited for, and what the tool said.",
    ),
)
BINDINGS = (ToolBinding("running_python", "module", "module", mode="boost"),)


def run(index_dir: Path | None, *, pause: bool) -> int:
    """Indexes, converses, verifies. The index stays, so that it can be looked into."""
    from lir_agents.engine import LateInteractionIndex

    screen = console.out()
    directory = index_dir or Path(tempfile.mkdtemp(prefix="lir-demo-")) / "python.lir"
    settings = Settings(ingest=IngestSettings(batch_documents=64))  # small batches, so that the bar moves
    with LateInteractionIndex.open(directory, settings=settings, bindings=BINDINGS) as index:
        _index(index, screen)
        thread = f"{_THREAD}-{time.time_ns()}"  # a conversation of its own, also on an index that had one
        events: list[str] = []
        for number, step in enumerate(STEPS, start=1):
            events.append(_turn(index, screen, number, step, thread))
            if pause and sys.stdin.isatty() and screen.is_terminal:
                screen.input(Text("  Enter goes on ", style="dim"))
        ok = _proof(index, screen, events)
    command = f'lir search "…" --index {quote(str(directory))} --explain'
    screen.print(Text.assemble(("\nLook around: ", "bold"), command), soft_wrap=True)
    return console.DONE if ok else console.FAILED


def _index(index: LateInteractionIndex, screen: Console) -> None:
    from lir_agents.cli.demo_corpus import demo_documents

    documents = list(demo_documents())
    start = time.monotonic()
    with console.progress("indexing", unit="documents", total=len(documents)) as advance:
        report = index.add(documents, progress=console.committed(advance))
    added = (
        f"{report.added:,} documents of the Python reference and standard library"
        if report.added
        else "nothing new"
    )
    screen.print(Text(f"Indexed {added} in {time.monotonic() - start:.0f} s.", style="dim"))


def _turn(index: LateInteractionIndex, screen: Console, number: int, step: Step, thread: str) -> str:
    """Asks once in the light of thread and tool, and once without them to show the difference. Gives the event."""
    screen.print()
    screen.print(Rule(Text(f"turn {number} of {len(STEPS)}"), align="left", style="dim"))
    screen.print(Text.assemble(("you    ", "bold cyan"), (step.question, "bold")))
    signals = [_call_tool(screen)] if step.tool else []
    alone = index.search(step.question, k=_POOL)
    result = index.search(step.question, k=_POOL, thread_id=thread, tool_signals=signals)
    full = render.longest(result[:_SHOWN])
    for hit in result[:_SHOWN]:
        moved = _moved(hit.document_id, hit.rank, alone) if number > 1 else ""
        screen.print(render.hit_panel(hit, full=full, explanation=hit.explain(), moved=moved))
    if result:
        screen.print(_met(result))
    screen.print(render.result_footer(result))
    same = [hit.passage_id for hit in result] == [hit.passage_id for hit in alone]
    lesson = step.lesson if number == 1 or not same else "Memory and tools left this ranking as it was."
    screen.print(Text(lesson, style="italic dim"))
    return result.event_id


def _call_tool(screen: Console) -> ToolSignal:
    """The agent's look at its surroundings: a LangChain tool, called as an agent would."""
    from langchain_core.tools import tool

    @tool
    def running_python() -> dict[str, str]:
        """Which Python runs the user's program, and the module that its event loop comes from."""
        return {"version": ".".join(map(str, sys.version_info[:3])), "module": "asyncio"}

    answer: dict[str, Any] = running_python.invoke({})
    screen.print(Text.assemble(("tool   ", "bold yellow"), "running_python() → ", (str(answer), "yellow")))
    return ToolSignal("running_python", answer)


def _moved(document_id: str, rank: int, alone: SearchResult) -> str:
    """How a document's rank differs from that of the same words without memory and tools."""
    before = next((hit.rank for hit in alone if hit.document_id == document_id), None)
    if before is None:
        return f"▲ was not among the first {_POOL}"
    if before == rank:
        return ""
    return f"{'▲' if before > rank else '▼'} was {before}"


def _met(result: SearchResult) -> Text:
    """The strongest meetings of words behind the first hit."""
    strongest = sorted(result[0].explain(), key=lambda match: -match.contribution)[:5]
    met = Text("why 1  ", style="bold dim")
    for match in strongest:
        met.append(f"{console.printable(match.query_token)} → {console.printable(match.word)} ", style="cyan")
        met.append(f"{match.similarity:.2f}   ", style="dim")
    return met


def _proof(index: LateInteractionIndex, screen: Console, event_ids: Sequence[str]) -> bool:
    """The events of the conversation, and the whole log recomputed from its rows."""
    screen.print()
    screen.print(Rule(Text("the audit log"), align="left", style="dim"))
    for event_id in event_ids:
        event = index.audit.get(event_id)
        screen.print(Text(f"{event.time[:19]}  {event.kind}  {event.event_id}", style="dim"))
    report = index.audit.verify()
    verdict = (
        Text(f"✔ {report.size} events, each provably as it was recorded · root {report.root[:16]}…", style="green")
        if report.ok
        else Text(f"✘ the log is damaged: {report.problems[0].detail}", style="red")
    )
    screen.print(Panel(verdict, border_style="dim"))
    return report.ok
