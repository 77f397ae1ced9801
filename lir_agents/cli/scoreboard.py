"""The table that `lir eval` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from lir_agents.cli.console import printable

if TYPE_CHECKING:
    from lir_agents.evaluation import Experiment
    from lir_agents.evaluation.experiment import SystemResult

__all__ = ["scoreboard"]

_SHOWN = ("nDCG@10", "Recall@5", "Recall@10", "Recall@100", "MRR@10")
_SHOWN_NARROW = ("nDCG@10", "Recall@10", "MRR@10")
WIDTH = 112
"""Columns of text that the whole table takes; narrower screens get fewer metrics, never squeezed ones."""
_SURE = 0.05
"""Differences with a p-value below this are marked."""


def scoreboard(experiment: Experiment, baselines: tuple[str, ...], *, width: int = WIDTH) -> Table:
    """One row a system; the best value of each metric is bold.

    The last column holds the difference in nDCG@10 to the best of `baselines` that was run, with ▲ or ▼ where
    the paired randomisation test finds it hardly luck (p < .05).
    """
    best = experiment.best_of(baselines)
    shown, percents = (_SHOWN, ("p50", "p95")) if width >= WIDTH else (_SHOWN_NARROW, ("p50",))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{printable(experiment.dataset)} · {printable(experiment.split)} · {experiment.queries:,} queries · "
        f"{experiment.passages:,} passages",
        title_justify="left",
        caption="▲ ▼ better or worse than the best baseline at p < .05, paired randomisation test",
        caption_justify="left",
    )
    table.add_column("system", no_wrap=True)
    for name in (*shown, "leaks", *(f"{percent} ms" for percent in percents)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"against {best}" if best else "", justify="right", no_wrap=True)
    top = {metric: max(result.metrics[metric] for result in experiment.systems.values()) for metric in shown}
    for name, result in experiment.systems.items():
        table.add_row(printable(name), *_cells(result, top, percents), _difference(experiment, name, best))
    return table


def _cells(result: SystemResult, top: dict[str, float], percents: tuple[str, ...]) -> list[Text]:
    metrics, latency = result.metrics, result.latency_ms()
    cells = [
        Text(f"{metrics[metric]:.4f}", style="bold" if metrics[metric] == best else "")
        for metric, best in top.items()
    ]
    cells.append(Text(str(result.leaks), style="bold red" if result.leaks else ""))
    return cells + [Text(f"{latency[percent]:.1f}") for percent in percents]


def _difference(experiment: Experiment, name: str, best: str | None) -> Text:
    if best is None or name == best or not experiment.systems[name].values("nDCG@10"):
        return Text("")
    found = experiment.compare(name, best)
    sure = found.p_value < _SURE
    mark = ("▲ " if found.difference > 0 else "▼ ") if sure else ""
    style = ("green" if found.difference > 0 else "red") if sure else "dim"
    return Text(f"{mark}{found.difference:+.4f} p={found.p_value:.3f}", style=style)
