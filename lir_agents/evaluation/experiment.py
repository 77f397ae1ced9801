"""Runs systems over a dataset: quality, leaks and latency, and how sure the differences are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from lir_agents.errors import AccessDenied, InputError
from lir_agents.evaluation.dataset import Dataset, EvalQuery
from lir_agents.evaluation.machine import describe_machine
from lir_agents.evaluation.metrics import METRICS, mean, score_query
from lir_agents.evaluation.significance import Comparison, compare

__all__ = ["Experiment", "QueryOutcome", "Ranking", "System", "SystemResult", "evaluate", "leaked"]

TOP = 100
"""Document ids kept per query: enough to compute every metric again from the result file."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a system answers.

    Attributes:
        document_ids: Best first, each at most once.
        timings_ms: Wall-clock milliseconds per stage, as the system reports them.
        passages: How many passages the ranking was folded from.
    """

    document_ids: tuple[str, ...]
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    passages: int = 0

    def __post_init__(self) -> None:
        if len(set(self.document_ids)) < len(self.document_ids):
            raise InputError("holds a document twice", field="document_ids", remedy="Keep each one's first place.")


System: TypeAlias = Callable[[EvalQuery], Ranking]
"""Anything that ranks documents for a query in its situation."""


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """One query under one system. `metrics` is empty for a query without judgements (one to be denied)."""

    metrics: Mapping[str, float]
    top: tuple[str, ...]
    leaked: tuple[str, ...]
    elapsed_ms: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system over all queries.

    Attributes:
        outcomes: By query id, in the order asked.
    """

    outcomes: Mapping[str, QueryOutcome]

    def values(self, metric: str) -> list[float]:
        """The metric of every judged query, in the order asked."""
        return [outcome.metrics[metric] for outcome in self.outcomes.values() if outcome.metrics]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the judged queries."""
        return {metric: mean(self.values(metric)) for metric in METRICS}

    @property
    def leaks(self) -> int:
        """Queries whose result held a document that who asked may not read."""
        return sum(1 for outcome in self.outcomes.values() if outcome.leaked)

    def latency_ms(self) -> dict[str, float]:
        """Percentiles of the whole call, in milliseconds."""
        return _percentiles([outcome.elapsed_ms for outcome in self.outcomes.values()], (50, 95, 99))

    def stages_ms(self) -> dict[str, dict[str, float]]:
        """Percentiles per stage, in milliseconds, over the queries that went through it."""
        stages = dict.fromkeys(stage for outcome in self.outcomes.values() for stage in outcome.stages_ms)
        return {
            stage: _percentiles(
                [out.stages_ms[stage] for out in self.outcomes.values() if stage in out.stages_ms], (50, 95)
            )
            for stage in stages
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **self.metrics,
            "leaks": self.leaks,
            "latency_ms": self.latency_ms(),
            "stages_ms": self.stages_ms(),
            "per_query": {
                query: {"nDCG@10": outcome.metrics.get("nDCG@10"), "top": list(outcome.top)}
                for query, outcome in self.outcomes.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Experiment:
    """Systems compared on one dataset.

    Attributes:
        queries: How many were asked, those to be denied included.
        passages: How many the index held.
        switches: Which parts of a query's situation were fed in, e.g. ``{"memory": "off"}``.
    """

    dataset: str
    split: str
    queries: int
    passages: int
    machine: Mapping[str, Any]
    systems: Mapping[str, SystemResult]
    switches: Mapping[str, str] = field(default_factory=dict)

    def compare(self, first: str, second: str, *, metric: str = "nDCG@10") -> Comparison:
        """Paired comparison of two systems over the judged queries.

        Raises:
            InputError: A system was not run, or nothing was judged.
        """
        for name in (first, second):
            if name not in self.systems:
                raise InputError(
                    f"{name!r} was not run", field="systems", remedy=f"Run: {', '.join(self.systems)}."
                )
        return compare(self.systems[first].values(metric), self.systems[second].values(metric))

    def best_of(self, names: Sequence[str], *, metric: str = "nDCG@10") -> str | None:
        """The name with the highest mean among those that were run; None where none was."""
        run = [name for name in names if name in self.systems]
        return max(run, key=lambda name: self.systems[name].metrics[metric]) if run else None

    def to_json(self) -> dict[str, Any]:
        """The document that `lir eval --json` writes. A query without judgements has a null nDCG@10."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "queries": self.queries,
            "passages": self.passages,
            "switches": dict(self.switches),
            "machine": dict(self.machine),
            "systems": {name: result.to_json() for name, result in self.systems.items()},
        }


def leaked(query: EvalQuery, document_ids: Sequence[str], acls: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The returned documents that who asked may not read.

    A document leaks where it is a forbidden target, or where the query names principals and the document's
    ACL shares none with them; a document without an ACL shares none.
    """
    forbidden = frozenset(query.forbidden_target)
    if query.principals is None:
        return tuple(document for document in document_ids if document in forbidden)
    grants = frozenset(query.principals)
    return tuple(
        document
        for document in document_ids
        if document in forbidden or grants.isdisjoint(acls.get(document, frozenset()))
    )


def evaluate(
    dataset: Dataset,
    systems: Mapping[str, System],
    *,
    passages: int = 0,
    switches: Mapping[str, str] | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> Experiment:
    """Asks every query of the dataset to every system.

    Systems run one after the other, so that none warms a cache for the next within a query; the first query is
    asked once more than it is timed, so that loading a model is no one's latency. A refused query
    (`AccessDenied`) is an empty ranking; any other error ends the experiment.

    Args:
        dataset: What to ask.
        systems: Whom, by name.
        passages: Size of the index, for the record.
        switches: Which parts of the queries' situation were fed in, for the record.
        advance: Called with the system's name after each query.
    """
    results: dict[str, SystemResult] = {}
    for name, system in systems.items():
        for query in dataset.queries[:1]:
            _ask(system, query)
        outcomes: dict[str, QueryOutcome] = {}
        for query in dataset.queries:
            outcomes[query.id] = _outcome(dataset, system, query)
            advance(name)
        results[name] = SystemResult(outcomes)
    return Experiment(
        dataset=dataset.name,
        split=dataset.split,
        queries=len(dataset.queries),
        passages=passages,
        machine=describe_machine(),
        systems=results,
        switches=switches or {},
    )


def _ask(system: System, query: EvalQuery) -> Ranking:
    try:
        return system(query)
    except AccessDenied:
        return Ranking(())


def _outcome(dataset: Dataset, system: System, query: EvalQuery) -> QueryOutcome:
    start = time.perf_counter()
    ranking = _ask(system, query)
    elapsed_ms = (time.perf_counter() - start) * 1000.0
    judged = dataset.qrels.get(query.id)
    return QueryOutcome(
        metrics={} if judged is None else score_query(ranking.document_ids, judged),
        top=ranking.document_ids[:TOP],
        leaked=leaked(query, ranking.document_ids, dataset.acls),
        elapsed_ms=elapsed_ms,
        stages_ms={stage: ms for stage, ms in ranking.timings_ms.items() if stage != "total"},
    )


def _percentiles(values: Sequence[float], wanted: Sequence[int]) -> dict[str, float]:
    found = np.percentile(values, wanted) if values else [0.0] * len(wanted)
    return {f"p{percent}": float(value) for percent, value in zip(wanted, found, strict=True)}
