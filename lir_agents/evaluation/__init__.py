"""Datasets, metrics, experiments.

    dataset = Dataset.load("collections/scifact")
    experiment = evaluate(dataset, bind_systems(index, ["bm25", "lir"]))
    experiment.systems["lir"].metrics["nDCG@10"], experiment.compare("lir", "bm25").p_value

A system is any callable from an `EvalQuery` to a `Ranking`, so other retrievers can be measured beside these.
"""

from __future__ import annotations

from lir_agents.evaluation.dataset import Dataset, EvalQuery, principal_of
from lir_agents.evaluation.experiment import Experiment, Ranking, System, SystemResult, evaluate
from lir_agents.evaluation.metrics import METRICS
from lir_agents.evaluation.significance import Comparison, compare
from lir_agents.evaluation.systems import BASELINES, SYSTEMS, Situation, bind_systems, check_systems

__all__ = [
    "BASELINES",
    "METRICS",
    "SYSTEMS",
    "Comparison",
    "Dataset",
    "EvalQuery",
    "Experiment",
    "Ranking",
    "Situation",
    "System",
    "SystemResult",
    "bind_systems",
    "check_systems",
    "compare",
    "evaluate",
    "principal_of",
]
