"""Plots of the measurements, as small SVG files beside the tables."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bench import say
from benchmarks.markdown import Results

_SIZE = (6.0, 3.4)


def write(results: Results, folder: Path) -> list[Path]:
    """Draws what there are results for. Returns the files; none where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        say("matplotlib is not installed: no plots")
        return []
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text and ids stay the same, so that a file changes only where its numbers do.
    style = {"svg.fonttype": "none", "svg.hashsalt": "lir", "axes.spines.top": False, "axes.spines.right": False}
    drawn = []
    with matplotlib.rc_context(style):
        for name, (needs, draw) in PLOTS.items():
            if needs in results:
                drawn.append(_drawn(folder / f"{name}.svg", lambda axes, draw=draw: draw(axes, results)))
    return drawn


def _drawn(path: Path, draw: Callable[[Any], None]) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    draw(axes)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _scale(axes: Any, results: Results) -> None:
    found = results["scale/curve"]
    sizes = list(found["passages"].values())
    taken = [found["latency_ms"][size] for size in found["passages"]]
    middle = [one["p50"] for one in taken]
    axes.fill_between(sizes, [one["q1"] for one in taken], [one["q3"] for one in taken], alpha=0.2)
    axes.plot(sizes, middle, marker="o", label="search, p50 and quartiles")
    for stage in ("first_stage", "rerank", "record"):
        parts = [found["stages_ms"][size].get(stage, 0.0) for size in found["passages"]]
        axes.plot(sizes, parts, marker=".", linewidth=1, label=stage.replace("_", " "))
    if million := results.get("scale/million"):
        ahead = [sizes[-1], million["passages"]]
        axes.plot(ahead, [middle[-1], million["projected_ms"]["search"]], "k:", label="projected")
    axes.set(xscale="log", xlabel="passages", ylabel="ms", ylim=0)
    axes.legend(frameon=False, fontsize="small")


def _selective(axes: Any, results: Results) -> None:
    found = results["selective/latency"]["latency_ms"]
    heights = [one["p50"] for one in found.values()]
    below = [one["p50"] - one["q1"] for one in found.values()]
    above = [one["q3"] - one["p50"] for one in found.values()]
    axes.bar(list(found), heights, yerr=(below, above), color=["0.6", *["C0"] * (len(found) - 1)], capsize=3)
    axes.axhline(1.5 * heights[0], color="k", linestyle=":", linewidth=1)
    axes.set(xlabel="access, may read (dotted: 1.5 × off)", ylabel="ms p50")


def _scoring(axes: Any, results: Results) -> None:
    labels, heights, colours = [], [], []
    for at, (dim, one) in enumerate(results["scoring/maxsim"]["dims"].items()):
        for name in ("sentence-transformers", "maxsim-cpu", "maxsim, float32", "maxsim", one["limit"]):
            if name in one["latency_ms"]:
                labels.append(f"{dim}: {'bare product' if name == one['limit'] else name}")
                heights.append(one["latency_ms"][name]["p50"])
                colours.append(f"C{at}")
    axes.barh(labels[::-1], heights[::-1], color=colours[::-1])
    axes.set(xscale="log", xlabel="ms p50, 32 × 100 × 150 tokens")


PLOTS: dict[str, tuple[str, Callable[[Any, Results], None]]] = {
    "scale": ("scale/curve", _scale),
    "selective": ("selective/latency", _selective),
    "scoring": ("scoring/maxsim", _scoring),
}
"""The result that a plot needs, and what draws it."""
