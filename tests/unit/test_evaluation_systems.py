from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lir_agents import Coverage, Hit, InputError, Principal, SearchResult, ToolSignal, Turn
from lir_agents.evaluation import SYSTEMS, EvalQuery, Situation, bind_systems
from lir_agents.evaluation.systems import fuse_ranks


@dataclass
class Table:
    rows: Any
    document_ids: list[str]
    dense: Any
    lexical: Any
    maxsim: Any


@dataclass
class Recorder:
    """Answers from a fixed table and keeps what it was asked: the seam that the systems are bound to."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    table: Table = field(
        default_factory=lambda: Table(
            rows=np.array([10, 11, 12, 13], dtype=np.int64),
            document_ids=["a", "a", "b", "c"],
            dense=np.array([0.1, 0.9, 0.5, 0.5], dtype=np.float32),
            lexical=np.array([3.0, 0.0, 1.0, 0.0], dtype=np.float32),
            maxsim=np.array([0.2, 0.1, 0.3, 0.9], dtype=np.float32),
        )
    )

    def candidates(self, query: str, **asked: Any) -> Table:
        self.asked.append({"query": query, **asked})
        return self.table

    def search(self, query: str, **asked: Any) -> SearchResult:
        self.asked.append({"query": query, **asked})
        hits = [_hit(rank, document) for rank, document in enumerate(["b", "b", "a"], start=1)]
        return SearchResult(tuple(hits), query, Coverage({}), {"rerank": 1.5, "total": 2.0}, "e1")


def _hit(rank: int, document: str) -> Hit:
    return Hit(rank, 1.0, "", "", document, f"{document}#{rank}", 1, "", "", "", 0, 0, {}, {})


QUERY = EvalQuery(
    "q",
    "what now?",
    history=(Turn("user", "before"),),
    principals=("user:a", "all"),
    filter={"lang": "en"},
    tool_signals=(ToolSignal("t", "x"),),
)


def top(name: str, depth: int = 100) -> tuple[str, ...]:
    return bind_systems(Recorder(), [name], depth=depth)[name](QUERY).document_ids


def test_each_baseline_has_its_own_order() -> None:
    assert top("bm25") == ("a", "b")  # what no term matches is no answer
    assert top("dense") == ("a", "b", "c")  # b before c: equal scores stand by row
    assert top("maxsim") == ("c", "b", "a")
    assert top("hybrid")[0] in ("a", "b")


def test_a_document_stands_where_its_first_passage_stands() -> None:
    ranking = bind_systems(Recorder(), ["lir"])["lir"](QUERY)
    assert ranking.document_ids == ("b", "a")
    assert (ranking.passages, ranking.timings_ms["rerank"]) == (3, 1.5)


def test_rank_fusion_by_hand() -> None:
    fused = fuse_ranks([np.array([0, 2]), np.array([2, 1])], 4)
    assert fused == pytest.approx([1 / 61, 1 / 62, 1 / 62 + 1 / 61, 0.0])


def test_maxsim_orders_the_candidates_of_the_joined_lists_only() -> None:
    # depth 1: lexical brings passage 0, dense passage 1; c has the best MaxSim and is no candidate
    assert top("maxsim", depth=1) == ("a",)


def test_every_system_is_asked_under_the_same_scope() -> None:
    index = Recorder()
    for system in bind_systems(index, SYSTEMS).values():
        system(QUERY)
    assert len(index.asked) == len(SYSTEMS)
    for asked in index.asked:
        assert asked["principal"] == Principal("user:a", groups=["all"])
        assert asked["filter"] == {"lang": "en"}


def test_the_product_gets_the_situation_unless_it_is_switched_off() -> None:
    index = Recorder()
    bind_systems(index, ["lir"])["lir"](QUERY)
    bind_systems(index, ["lir"], situation=Situation(memory=False, tools=False))["lir"](QUERY)
    on, off = index.asked
    assert (on["history"], on["tool_signals"]) == (QUERY.history, QUERY.tool_signals)
    assert (off["history"], off["tool_signals"]) == ((), ())
    assert on["k"] == 100


@pytest.mark.parametrize("names", [["lir", "bm42"], []])
def test_unknown_systems_are_refused_with_the_known_ones(names: list[str]) -> None:
    with pytest.raises(InputError, match="bm25, dense, hybrid, maxsim, lir"):
        bind_systems(Recorder(), names)
