"""Whatever is said before: parts sum to scores, context is bounded by the turn, and evidence stays in its scope."""

from __future__ import annotations

import string
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.graph.conversation import conversation_of
from lir_agents.graph.recall import Recalled
from lir_agents.memory.records import entry_of_signal, entry_of_turn, plain
from lir_agents.ranking.fusion import FusionWeights, fuse
from tests.hashed_encoder import HashedEncoder

SIGNALS = ("maxsim", "dense", "lexical")
STAFF = Principal("sam", groups=["group:staff"])
GUEST = Principal("gil", groups=["group:guest"])
seeds = st.integers(0, 2**32 - 1)


def signals(generator: np.random.Generator, n: int, scale: float) -> dict[str, NDArray[np.float32]]:
    return {name: (scale * generator.normal(size=n)).astype(np.float32) for name in SIGNALS}


def fused(seed: int, n: int, scale: float, *, neighbours: bool = False) -> tuple[Any, Any, float]:
    """Parts of a fusion with context, its score, and the spread of the turn's own parts."""
    generator = np.random.default_rng(seed)
    pooled = generator.normal(size=(n, 8)).astype(np.float32)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    both = fuse(
        signals(generator, n, 0.2),
        weights=FusionWeights(),
        lexical_ceiling=1.0,
        context=signals(generator, n, scale),
        pooled=pooled if neighbours else None,
    )
    own = sum(part for name, part in both.parts.items() if name != "context")
    return both.parts, both.score, float(np.ptp(own))


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.2, 5.0, 1e4]), st.booleans())
def test_context_adds_at_most_what_the_turn_itself_spreads(seed, n, scale, neighbours):
    parts, score, spread = fused(seed, n, scale, neighbours=neighbours)
    assert np.ptp(parts["context"]) <= spread + 1e-9
    assert np.allclose(sum(parts.values()), score, atol=1e-9)
    assert np.all(np.isfinite(score))


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(2, 40), st.sampled_from([0.01, 0.2, 5.0, 1e4]), st.booleans())
def test_whatever_context_says_the_turns_best_passage_stays_at_or_above_its_worst(seed, n, scale, neighbours):
    parts, score, spread = fused(seed, n, scale, neighbours=neighbours)
    own = sum(part for name, part in parts.items() if name != "context")
    assert score[own.argmax()] >= score[own.argmin()] - 1e-9 * max(1.0, spread)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 30))
def test_a_context_of_nothing_changes_nothing(seed, n):
    generator = np.random.default_rng(seed)
    turn = signals(generator, n, 0.2)
    weights = FusionWeights()
    silent = {name: np.zeros(n, np.float32) for name in SIGNALS}
    alone = fuse(turn, weights=weights, lexical_ceiling=1.0)
    beside = fuse(turn, weights=weights, lexical_ceiling=1.0, context=silent)
    assert np.allclose(alone.score, beside.score, atol=1e-12)
    # The same for every passage is no evidence for any of them.
    level = {name: np.full(n, 0.3, np.float32) for name in SIGNALS}
    shifted = fuse(turn, weights=weights, lexical_ceiling=1.0, context=level)
    assert np.allclose(shifted.parts["context"], 0, atol=1e-5)


# ---------------------------------------------------------------- through the whole graph

words = st.lists(
    st.sampled_from(["leave", "pension", "canteen", "oslo", "rule", "v1", "v2"]), min_size=1, max_size=5
)
said = st.one_of(
    words.map(" ".join), st.text(max_size=40), st.text(string.punctuation + "\x00\x1b\u202e", max_size=20)
)
turns = st.builds(Turn, st.sampled_from(["user", "assistant", "tool"]), said)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["v1", "v2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(st.sampled_from(["version", "document_ids", "passage_id", "a"]), json_like, max_size=3)
names = st.lists(st.sampled_from(["staff/1", "guest/1", "staff/1#1.0", "guest/2#1.0", "none", "#"]), max_size=3)
outputs = st.one_of(said, fields, names.map(lambda ids: {"document_ids": ids, "passage_ids": ids, "version": "v1"}))
told_by_tools = st.builds(
    ToolSignal,
    st.sampled_from(["runtime", "finder", ""]),
    outputs,
    st.floats(0, 1),
    st.sampled_from(["", "", "down"]),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateInteractionIndex]:
    path = tmp_path_factory.mktemp("context") / "i.lir"
    bindings = [ToolBinding("runtime", "version", "version"), ToolBinding("runtime", "a.b", "version")]
    with LateInteractionIndex.open(path, access="acl", encoder=HashedEncoder(), bindings=bindings) as opened:
        opened.add(
            Document(
                id=f"{group}/{number}",
                text=f"The rule number {number} about {subject}.",
                acl=[f"group:{group}"],
                metadata={"version": f"v{number % 3}"},
            )
            for group in ("staff", "guest")
            for number, subject in enumerate(("leave", "pension", "canteen", "oslo", "rules"))
        )
        yield opened


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=words.map(" ".join), history=st.lists(turns, max_size=4), told=st.lists(told_by_tools, max_size=4))
def test_whatever_is_said_the_scope_the_sums_and_the_bound_hold(index, query, history, told):
    result = index.search(query, principal=GUEST, k=10, history=history, tool_signals=told)
    assert {hit.document_id for hit in result} <= {f"guest/{number}" for number in range(5)}
    own = [sum(hit.breakdown[name] for name in SIGNALS) for hit in result]
    for hit in result:
        assert sum(hit.breakdown.values()) == pytest.approx(hit.score, abs=1e-9)
        assert np.isfinite(hit.score)
        assert abs(hit.breakdown.get("context", 0.0)) <= np.ptp(own) + 1e-9
        tools = [part for name, part in hit.breakdown.items() if name.startswith("tool:")]
        assert all(part >= 0 for part in tools)
    scores = [hit.score for hit in result]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=words.map(" ".join), told=st.lists(told_by_tools, min_size=1, max_size=4))
def test_doubtful_and_failed_tools_move_nothing(index, query, told):
    doubtful = [ToolSignal(one.tool, one.output, one.confidence / 2, one.error) for one in told]
    wanted = index.search(query, principal=GUEST, k=10)
    moved = index.search(query, principal=GUEST, k=10, tool_signals=doubtful)
    assert [(hit.passage_id, hit.score) for hit in moved] == [(hit.passage_id, hit.score) for hit in wanted]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(turns, max_size=4), told=st.lists(told_by_tools, max_size=3))
def test_what_is_remembered_of_anything_comes_back_as_data(index, history, told):
    thread = str(uuid.uuid4())
    index.memory.remember(STAFF, thread, [*told, *history])
    result = index.search("leave", principal=STAFF, thread_id=thread)
    assert result.coverage.stages["memory"].status == "ok"
    assert {hit.document_id.split("/")[0] for hit in result} == {"staff"}
    assert len(index.memory.recall(STAFF, thread, set)) == len(history) + len(told) + 1


@settings(max_examples=200, deadline=None)
@given(json_like | st.binary(max_size=4) | st.sets(st.integers(), max_size=3) | st.complex_numbers())
def test_plain_data_is_json_and_stays_what_it_is(value):
    once = plain(value)
    assert orjson.loads(orjson.dumps(once)) == once
    assert plain(once) == once


@settings(max_examples=100, deadline=None)
@given(st.lists(turns, max_size=6), st.lists(told_by_tools, max_size=6), st.integers(0, 6))
def test_a_conversation_is_the_same_from_memory_as_from_the_caller(history, told, cut):
    """Turns recalled, told, or both: the questions and answers that are used are the same, each once."""
    assume(len({(turn.role, turn.text) for turn in history}) == len(history))
    now = datetime.now(UTC)
    entries = [entry_of_turn(turn, at=now, expires=now, max_chars=1000) for turn in history]
    assume(not any("\x00" in turn.text for turn in history))  # kept as another character: no store takes it
    wanted = conversation_of(history, (), ())
    for kept, brought in ((entries, ()), (entries, history), (entries[:cut], history)):
        recalled = Recalled.of(kept, brought)
        assert conversation_of(recalled.turns, recalled.signals, ()) == wanted
    signals = [entry_of_signal(one, at=now, expires=now, max_chars=1000).signal for one in told]
    again = conversation_of(history, signals, signals)
    assert again.signals == conversation_of(history, (), signals).signals
