"""Pieces that every table is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Results = dict[str, dict[str, Any]]
"""Every result file by its name: "quality/scifact"."""

ABSENT = "No result file yet: run `make bench`."


def of(results: Results, kind: str, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The results of one kind that are there, in this order."""
    return [(name, results[f"{kind}/{name}"]) for name in names if f"{kind}/{name}" in results]


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
