"""A room that raises, answers nonsense, has no space or kills the process: it is said, or a typed error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.arrays import LentTokens
from lir_agents.errors import AccessDenied, IntegrityError, StoreError
from lir_agents.graph import RetrievalContext, build_graph
from tests.faults.seam import corrupting, disk_full, raising, troubled
from tests.hashed_encoder import HashedEncoder

ALICE = Principal("alice", groups=["group:staff"])
BOB = Principal("bob", groups=["group:guests"])


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as opened:
        opened.add(
            Document(id=f"d{n}", text=f"Rule {n} about leave.", acl=["group:staff" if n % 2 else "group:guests"])
            for n in range(20)
        )
        yield opened


def require_only_what_alice_may_read(result: Any) -> None:
    assert result.hits
    assert all(int(hit.document_id[1:]) % 2 for hit in result)


ERRORS = [
    OSError(5, "Input/output error"),
    StoreError("torn page", store="x", operation="read"),
    ValueError("x" * 9),
]
LEFT_OUT = {"memory": "memory", "encoder": "first_stage", "lexical": "first_stage", "vectors": "first_stage"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("room", [*LEFT_OUT, "tokens"])
def test_a_room_that_raises_is_left_out_and_named_without_a_budget(index, room, error):
    with troubled(index, room, raising(error)):
        for result in (
            index.search("leave", principal=ALICE, thread_id="t"),
            build_graph(index).compile().invoke({"query": "leave"}, context=RetrievalContext(ALICE, "t"))["result"],
        ):
            require_only_what_alice_may_read(result)
            stage = result.coverage.stages[LEFT_OUT.get(room, "rerank")]
            assert stage.status == "failed"
            assert room in result.coverage.caveat
            assert "x" * 9 not in result.coverage.caveat  # what foreign code raises may quote what it was given
            assert index.audit.get(result.event_id).payload["coverage"]["full"] is False
    assert index.search("leave", principal=ALICE).coverage.full


def test_the_caveat_travels_with_documents_and_nodes(index):
    from llama_index.core.schema import MetadataMode

    from lir_agents.langchain import LateInteractionRetriever
    from lir_agents.llama_index import LateInteractionRetriever as NodeRetriever

    with troubled(index, "vectors", raising(OSError())):
        documents = LateInteractionRetriever(index=index, principal=ALICE).invoke("leave")
        nodes = NodeRetriever(index, principal=ALICE).retrieve("leave")
    assert all("vectors" in one.metadata["lir"]["caveat"] for one in documents)
    assert all("vectors" in one.node.metadata["lir"]["caveat"] for one in nodes)
    assert "caveat" not in nodes[0].node.get_content(MetadataMode.LLM)
    assert "caveat" not in LateInteractionRetriever(index=index, principal=ALICE).invoke("leave")[0].metadata["lir"]


def test_it_is_left_alone_after_so_many_failures_and_asked_again_later(index):
    calls: list[int] = []

    def trouble(call: Any) -> Any:
        calls.append(1)
        raise OSError

    failures = index.rooms.settings.limits.breaker_failures
    breaker = index.rooms.limits.breakers["vectors"]
    now = [0.0]
    breaker._clock = lambda: now[0]
    with troubled(index, "vectors", trouble):
        caveats = [index.search("leave", principal=ALICE).coverage.caveat for _ in range(failures + 3)]
        assert len(calls) == failures
        assert "asked again in 1.0 s" in caveats[-1]
        now[0] += 1.1
        index.search("leave", principal=ALICE)
        index.search("leave", principal=ALICE)
        assert len(calls) == failures + 1
    now[0] += 1.1
    assert index.search("leave", principal=ALICE).coverage.full
    assert index.search("leave", principal=ALICE).coverage.full


def test_nothing_left_to_look_with_is_the_first_error(index):
    first, second = (StoreError(what, store=what, operation="read") for what in ("vectors", "lexical"))
    with troubled(index, "vectors", raising(first)), troubled(index, "lexical", raising(second)):
        before = index.audit.size
        with pytest.raises(StoreError, match="read"):
            index.search("leave", principal=ALICE)
        assert index.audit.size == before


@pytest.mark.parametrize(
    ("room", "error", "comes"),
    [
        ("catalog", StoreError("torn page", store="catalog", operation="read"), StoreError),
        ("audit", StoreError("torn page", store="audit", operation="append"), StoreError),
    ],
)
def test_what_nothing_stands_in_for_ends_the_search(index, room, error, comes):
    with troubled(index, room, raising(error)), pytest.raises(comes):
        index.search("leave", principal=ALICE, thread_id="t")
    assert index.memory.recall(ALICE, "t", set) == []


def test_a_log_without_room_returns_nothing_and_memory_without_room_is_said(index):
    with troubled(index, "audit", disk_full()), pytest.raises(OSError, match="No space"):
        index.search("leave", principal=ALICE)
    with troubled(index, "memory", disk_full(), only=["keep"]):
        result = index.search("leave", principal=ALICE, thread_id="t")
    require_only_what_alice_may_read(result)
    assert "not remembered" in result.coverage.caveat


# ---------------------------------------------------------------- nonsense


def nan(encodings: Any) -> Any:
    return [replace(one, tokens=np.full_like(one.tokens, np.nan)) for one in encodings]


def everybodys(answer: Any) -> Any:
    """A damaged index of vectors lists rows of others, and of nobody."""
    rows = np.array([0, 2, 4, 5, 6, 999, 2**40], np.int64)
    return rows, np.ones(len(rows), np.float32)


@contextmanager
def fewer(lending: Any) -> Iterator[LentTokens]:
    with lending as lent:
        yield LentTokens(lent.addresses[:-1], lent.lengths[:-1], lent.codec)


@pytest.mark.parametrize(
    ("room", "method", "change", "named"),
    [
        ("encoder", "encode_queries", nan, "encoder"),
        ("encoder", "encode_queries", lambda encodings: [], "encoder"),
        ("lexical", "scores", lambda scores: scores * np.nan, "lexical"),
        ("lexical", "scores", lambda scores: scores[:3], "lexical"),
        ("tokens", "pooled", lambda pooled: pooled * np.nan, "tokens"),
        ("tokens", "lent", fewer, "tokens"),
        ("vectors", "search", everybodys, "vectors"),
        ("vectors", "search", lambda answer: None, "vectors"),
        ("memory", "recall", lambda entries: [None], "memory"),
    ],
)
def test_nonsense_is_left_out_and_shows_nobody_elses(index, room, method, change, named):
    index.search("leave", principal=ALICE, thread_id="t")
    with troubled(index, room, corrupting(change), only=[method]):
        result = index.search("leave of rule 3", principal=ALICE, thread_id="t")
    require_only_what_alice_may_read(result)
    assert named in result.coverage.caveat
    assert not result.coverage.full
    assert all(np.isfinite(hit.score) for hit in result)


def test_a_foreign_encoder_is_no_fallback(tmp_path):
    with LateInteractionIndex.open(tmp_path / "i.lir", encoder=HashedEncoder()) as index:
        index.add([Document(id="a", text="leave")])
    with pytest.raises(IntegrityError):
        LateInteractionIndex.open(tmp_path / "i.lir", encoder=HashedEncoder(seed=1))


def test_who_is_refused_is_refused_also_when_everything_fails(index):
    with troubled(index, "encoder", raising(OSError())), pytest.raises(AccessDenied):
        index.search("leave")


# ---------------------------------------------------------------- killed

_KILLED = """
import sys
from lir_agents import LateInteractionIndex, Principal
from tests.faults.seam import killing, troubled
from tests.hashed_encoder import HashedEncoder

with LateInteractionIndex.open(sys.argv[1], encoder=HashedEncoder()) as index:
    for number in range(3):
        print(index.search("leave", principal=Principal("alice", groups=["group:staff"]), budget_ms=60_000,
                           thread_id="t").event_id, flush=True)
    with troubled(index, sys.argv[2], killing()):
        index.search("leave", principal=Principal("alice", groups=["group:staff"]), budget_ms=60_000, thread_id="t")
"""


@pytest.mark.parametrize("room", ["tokens", "audit"])
def test_killed_within_a_search_nothing_that_was_answered_is_lost(index, room):
    path = index.path
    index.close()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), room],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as again:
        assert again.verify() == []
        events = [event.event_id for event in again.audit.events(kind="retrieval")]
        assert events == done.stdout.split()
        assert len(events) == 3
        assert again.search("leave", principal=ALICE, thread_id="t").coverage.full
