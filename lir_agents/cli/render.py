"""Hits, breakdowns and explanations on a terminal. Everything that came from a document is made printable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lir_agents.cli.console import counted, printable

if TYPE_CHECKING:
    from lir_agents.ranking.explain import Explanation
    from lir_agents.types import Hit, SearchResult

__all__ = ["breakdown_bar", "hit_panel", "longest", "match_table", "result_footer", "snippet"]

_COLOURS = {"maxsim": "cyan", "dense": "blue", "lexical": "green", "context": "magenta"}
_OTHER_COLOURS = ("yellow", "bright_red", "bright_cyan")
_BAR = 60
"""Width of the longest bar, in characters."""
_SNIPPET = 320
"""Characters of a passage that are shown."""
_SPEAKING = 0.5
"""Matches of at least this similarity are marked in the text."""


def colour(part: str, breakdown: Mapping[str, float]) -> str:
    """The colour that stands for a part of a score: the same for the same part of one breakdown's names."""
    others = sorted(name for name in breakdown if name not in _COLOURS)
    return _COLOURS.get(part) or _OTHER_COLOURS[others.index(part) % len(_OTHER_COLOURS)]


def longest(hits: Iterable[Hit]) -> float:
    """What fills the bar: the largest sum of a hit's positive parts."""
    return max((sum(value for value in hit.breakdown.values() if value > 0) for hit in hits), default=0.0)


def breakdown_bar(breakdown: Mapping[str, float], *, full: float) -> Text:
    """A stacked bar of what lifts the score, and below it a legend that also names what lowers it."""
    bar, legend = Text(), []
    for part, value in breakdown.items():
        cells = round(_BAR * max(value, 0.0) / full) if full > 0 else 0
        bar.append("█" * cells, style=colour(part, breakdown))
        tint = colour(part, breakdown)
        legend.append(Text.assemble((f"{_one_line(part)} ", "dim"), (f"{value:+.2f}", tint)))
    return Text("\n").join([bar, Text("  ").join(legend)])


def snippet(text: str, marks: Iterable[tuple[int, int]] = (), *, width: int = _SNIPPET) -> Text:
    """The part of a text that holds most marked words, with these in bold.

    Args:
        text: A passage.
        marks: Character offsets (start, end) of words to set in bold.
        width: Most characters shown.
    """
    spans = sorted(set(marks))
    begin = _window(spans, width, len(text))
    if begin:
        begin = text.rfind(" ", 0, begin) + 1
    end = min(len(text), begin + width)
    shown = Text("… " if begin else "")
    shift = len(shown) - begin
    shown.append("".join(printable(char) for char in text[begin:end]))  # character by character: offsets stay
    for start, stop in spans:
        if begin <= start and stop <= end:
            shown.stylize("bold underline", start + shift, stop + shift)
    return shown.append(" …") if end < len(text) else shown


def _window(spans: list[tuple[int, int]], width: int, length: int) -> int:
    """Where to start so that most marks are seen; the beginning, where that is as good."""
    starts = [0, *(max(0, min(start - width // 4, length - width)) for start, _ in spans)]
    return max(starts, key=lambda at: (sum(at <= start and stop <= at + width for start, stop in spans), -at))


def hit_panel(hit: Hit, *, full: float, explanation: Explanation | None = None, moved: str = "") -> Panel:
    """One hit: where it comes from, what it says, what its score is made of.

    Args:
        hit: The hit.
        full: What fills the bar; see `longest`.
        explanation: Whose well matched words are set in bold.
        moved: How its rank changed, in a few words.
    """
    marks = [match.span for match in explanation or () if not match.in_title and match.similarity >= _SPEAKING]
    title = Text.assemble((f" {hit.rank} ", "reverse"), " ", (_one_line(hit.title or hit.document_id), "bold"))
    if moved:
        title.append(f"  {moved}", style="bold yellow")
    origin = f"{_one_line(hit.source_uri or hit.document_id)} · v{hit.version} · score {hit.score:.3f}"
    return Panel(
        Group(snippet(hit.text, marks), Text(), breakdown_bar(hit.breakdown, full=full)),
        title=title,
        title_align="left",
        subtitle=Text(origin, style="dim"),
        subtitle_align="right",
        box=box.ROUNDED,
        border_style="dim",
    )


def match_table(explanation: Explanation) -> Table:
    """Each query token with the word it met, how alike they are, and what it adds to the MaxSim score."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("query token", justify="right")
    table.add_column("met")
    table.add_column("similarity")
    table.add_column("adds", justify="right")
    for match in explanation:
        strength = max(0.0, match.similarity)
        bar = Text("━" * round(strength * 20), style="cyan").append(f" {match.similarity:.2f}", style="dim")
        where = Text(" in the title", style="dim") if match.in_title else Text("")
        word = Text(_one_line(match.word)).append_text(where)
        table.add_row(Text(_one_line(match.query_token), style="bold"), word, bar, f"{match.contribution:+.3f}")
    return table


def result_footer(result: SearchResult) -> RenderableType:
    """Hits, time, event and, where something was left out, what."""
    total = result.timings_ms.get("total")
    parts = [counted(len(result), "hit"), f"event {printable(result.event_id)}"]
    if total is not None:
        parts.insert(1, f"{total:.0f} ms")
    line = Text(" · ".join(parts), style="dim")
    return Group(line, Text(printable(result.coverage.caveat), style="yellow")) if result.coverage.caveat else line


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
