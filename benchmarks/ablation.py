"""What each signal is worth: the product, with one signal off in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench, altered, as_system, say, searcher
from benchmarks.memory import CONVERSATIONS, SCOPED, VERSIONED
from lir_agents.evaluation import evaluate
from lir_agents.ranking.fusion import FusionWeights

SETS = ("scifact", "cranfield", "cisi", "med", *CONVERSATIONS, *SCOPED, *VERSIONED)

SWITCHES: dict[str, dict[str, Any]] = {
    "maxsim": {"maxsim": 0.0},
    "best block": {"block": 0.0},
    "dense": {"dense": 0.0},
    "lexical": {"lexical": 0.0},
    "neighbours": {"neighbours": 0.0},
    "token weights": {"idf_power": 0.0},
    "prior": {"prior_count": 1e-6},
    "context": {"context": 0.0, "context_terms": 0.0},
    "context vectors": {"context": 0.0},
    "context terms": {"context_terms": 0.0},
    "completeness": {"context_of_complete": 1.0},
    "tools": {"tool": 0.0},
}
"""Signal to the weights that take it out of the score. Candidates still come from both first-stage lists."""

_CONVERSATION = ("context", "context vectors", "context terms", "completeness")


def run(bench: Bench) -> None:
    """History and tools fed in; one file a collection."""
    for name in bench.chosen(SETS):
        if bench.standing(f"ablation/{name}") is None:
            bench.write(f"ablation/{name}", _measure(bench, name))


def _measure(bench: Bench, name: str) -> dict[str, Any]:
    dataset = bench.dataset(name)
    conversation = any(query.history for query in dataset.queries)
    tools = any(query.tool_signals for query in dataset.queries)
    off = [
        signal
        for signal in SWITCHES
        if (conversation or signal not in _CONVERSATION) and (tools or signal != "tools")
    ]
    say(f"{name}: {len(dataset.queries)} queries, {len(off)} signals off in turn")
    with bench.index(dataset) as index:
        systems = {"all": as_system(index.search)} | {
            signal: as_system(searcher(altered(index, weights=replace(FusionWeights(), **SWITCHES[signal]))))
            for signal in off
        }
        experiment = evaluate(dataset, systems)
    without = {}
    for signal in off:
        found = experiment.compare(signal, "all")
        mean = experiment.systems[signal].metrics["nDCG@10"]
        without[signal] = {"nDCG@10": mean, "difference": found.difference, "p_value": found.p_value}
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "queries": len(dataset.queries),
        "all": experiment.systems["all"].metrics["nDCG@10"],
        "without": without,
    }
