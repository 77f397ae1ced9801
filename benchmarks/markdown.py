"""Pieces that every table is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Results = dict[str, dict[str, Any]]
"""Every result file by its name: "quality/scifact"; those of another machine: "machines/zen4/quality/scifact"."""

MACHINES = "machines"
"""The folder that holds a folder of results for each other machine."""

ABSENT = "No result file yet: run `make bench`."


def of(results: Results, kind: str, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The results of one kind that are there, in this order."""
    return [(name, results[f"{kind}/{name}"]) for name in names if f"{kind}/{name}" in results]


def by_machine(results: Results) -> dict[str, Results]:
    """The results of each machine by themselves: first, named "", those that all pages are made of."""
    found: dict[str, Results] = {"": {}}
    for name, one in results.items():
        machine, rest = "", name
        if name.startswith(f"{MACHINES}/"):
            _, machine, rest = name.split("/", 2)
        found.setdefault(machine, {})[rest] = one
    return found


def machine_of(results: Results) -> str:
    """What results were measured on."""
    machines = {_described(result["machine"]) for result in results.values()}
    return "; ".join(sorted(machines)) or "none yet"


def _described(machine: Mapping[str, Any]) -> str:
    used = f" ({machine['instructions']})" if "instructions" in machine else ""
    return f"{machine['cpu']}{used}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; what to do next where there is nothing to show."""
    listed = list(rows)
    lines = [head, ["---"] * len(head), *listed]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) if listed else ABSENT


def spread(one: Mapping[str, float]) -> str:
    """A ratio with its interval."""
    return f"{one['ratio']:.2f} × ({one['low']:.2f} to {one['high']:.2f})"


def milliseconds(one: Mapping[str, float]) -> list[str]:
    """p50 and p95."""
    return [f"{one['p50']:.2f}", f"{one['p95']:.2f}"]


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
