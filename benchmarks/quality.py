"""Ranking quality with the conversation switched off: the product beside what it is made of."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench, say
from lir_agents.evaluation import BASELINES, SYSTEMS, Experiment, Situation, bind_systems, evaluate

SETS = ("scifact", "cranfield", "cisi", "med", "mtrag_clapnq", "mtrag_cloud", "mtrag_fiqa")


def run(bench: Bench) -> None:
    """Memory off, five systems, one file a collection."""
    for name in bench.chosen(SETS):
        if bench.standing(f"quality/{name}") is None:
            bench.write(f"quality/{name}", measure(bench, name, situation=Situation(memory=False)))


def measure(bench: Bench, name: str, *, situation: Situation) -> dict[str, Any]:
    """`lir eval` on one collection, without the rankings."""
    dataset = bench.dataset(name)
    say(f"{name}: {len(dataset.queries)} queries, {len(SYSTEMS)} systems")
    with bench.index(dataset) as index:
        experiment = evaluate(
            dataset,
            bind_systems(index, SYSTEMS, situation=situation),
            passages=index.stats()["live_passages"],
            switches={"memory": _switch(situation.memory), "tools": _switch(situation.tools)},
        )
    return trimmed(experiment) | _against_best(experiment)


def trimmed(experiment: Experiment) -> dict[str, Any]:
    """An experiment as JSON data, with the metric of each query and without its ranking."""
    data = experiment.to_json()
    for system in data["systems"].values():
        system["per_query"] = {query: kept["nDCG@10"] for query, kept in system["per_query"].items()}
    return data


def _against_best(experiment: Experiment) -> dict[str, Any]:
    best = experiment.best_of(BASELINES)
    if best is None:
        return {}
    found = experiment.compare("lir", best)
    return {
        "best_baseline": best,
        "difference": found.difference,
        "p_value": found.p_value,
        "interval": [found.low, found.high],
    }


def _switch(on: bool) -> str:
    return "on" if on else "off"
