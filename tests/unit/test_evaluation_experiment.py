from __future__ import annotations

import json
from pathlib import Path

import pytest

from lir_agents import AccessDenied, InputError, StoreError
from lir_agents.evaluation import Dataset, EvalQuery, Ranking, evaluate
from lir_agents.evaluation.experiment import leaked

ACLS = {"open": frozenset({"all"}), "secret": frozenset({"user:boss"}), "bare": frozenset[str]()}


def dataset(**changes: object) -> Dataset:
    queries = (
        EvalQuery("q1", "one", principals=("user:a", "all")),
        EvalQuery("q2", "two", principals=("user:a", "all")),
        EvalQuery("no", "secret", principals=("user:a",), expect="deny", forbidden_target=("secret",)),
    )
    values: dict[str, object] = {
        "path": Path(),
        "name": "tiny",
        "split": "dev",
        "queries": queries,
        "qrels": {"q1": {"open": 1}, "q2": {"open": 1, "bare": 1}},
        "acls": ACLS,
    }
    return Dataset(**(values | changes))  # type: ignore[arg-type]


def careful(query: EvalQuery) -> Ranking:
    found = () if query.expect == "deny" else ("open",)
    return Ranking(found, timings_ms={"first_stage": 2.0, "total": 3.0})


def leaky(query: EvalQuery) -> Ranking:
    return Ranking(("secret", "open"))


def test_the_result_has_the_documented_shape() -> None:
    written = evaluate(dataset(), {"careful": careful, "leaky": leaky}, passages=7).to_json()
    assert {"dataset", "split", "queries", "passages", "machine", "systems"} <= written.keys()
    assert (written["dataset"], written["split"], written["queries"], written["passages"]) == ("tiny", "dev", 3, 7)
    system = written["systems"]["careful"]
    assert system.keys() == {
        *("nDCG@10", "Recall@5", "Recall@10", "Recall@100", "MRR@10"),
        *("leaks", "latency_ms", "stages_ms", "per_query"),
    }
    assert system["latency_ms"].keys() == {"p50", "p95", "p99"}
    assert system["stages_ms"] == {"first_stage": {"p50": 2.0, "p95": 2.0}}
    assert system["per_query"]["q1"] == {"nDCG@10": 1.0, "top": ["open"]}
    assert system["per_query"]["no"] == {"nDCG@10": None, "top": []}
    assert {"cpu", "cores", "os", "python", "torch", "versions"} <= written["machine"].keys()
    assert json.loads(json.dumps(written)) == written


def test_means_are_over_judged_queries_and_leaks_over_all() -> None:
    result = evaluate(dataset(), {"careful": careful, "leaky": leaky})
    assert result.systems["careful"].metrics["Recall@10"] == pytest.approx(0.75)
    assert result.systems["leaky"].metrics["MRR@10"] == pytest.approx(0.5)
    assert result.systems["careful"].leaks == 0
    assert result.systems["leaky"].leaks == 3


def test_a_leak_is_a_document_without_a_shared_grant_or_a_forbidden_one() -> None:
    asks = EvalQuery("q", "?", principals=("user:a", "all"))
    assert leaked(asks, ["open", "secret", "bare", "unheard-of"], ACLS) == ("secret", "bare", "unheard-of")
    boss = EvalQuery("q", "?", principals=("user:boss", "all"), forbidden_target=("open",))
    assert leaked(boss, ["open", "secret"], ACLS) == ("open",)
    anyone = EvalQuery("q", "?", forbidden_target=("secret",))
    assert leaked(anyone, ["open", "secret", "bare"], {}) == ("secret",)


def test_a_refused_query_is_an_empty_ranking_and_another_error_ends_the_experiment() -> None:
    def refusing(query: EvalQuery) -> Ranking:
        raise AccessDenied("no")

    def broken(query: EvalQuery) -> Ranking:
        raise StoreError("gone", store="catalog", operation="read")

    assert evaluate(dataset(), {"refusing": refusing}).systems["refusing"].metrics["Recall@100"] == 0.0
    with pytest.raises(StoreError):
        evaluate(dataset(), {"broken": broken})


def test_progress_moves_once_per_query_and_system() -> None:
    seen: list[str] = []
    evaluate(dataset(), {"a": careful, "b": leaky}, advance=seen.append)
    assert seen == ["a"] * 3 + ["b"] * 3


def test_systems_compare_over_judged_queries() -> None:
    result = evaluate(dataset(), {"careful": careful, "leaky": leaky})
    found = result.compare("careful", "leaky")
    assert (found.queries, found.p_value) == (2, 0.5)
    assert found.difference > 0
    assert result.best_of(["leaky", "careful", "absent"]) == "careful"
    assert result.best_of(["absent"]) is None
    with pytest.raises(InputError, match="'absent' was not run"):
        result.compare("careful", "absent")


def test_a_ranking_holds_a_document_once() -> None:
    with pytest.raises(InputError, match="document twice"):
        Ranking(("a", "b", "a"))
