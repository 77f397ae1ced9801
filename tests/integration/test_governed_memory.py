"""What is remembered or forgotten stands in the audit log first, through whichever door it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lir_agents import Document, LateInteractionIndex, Principal, StoreError, ToolSignal, Turn
from tests.hashed_encoder import HashedEncoder

ANN = Principal("ann", groups=["staff"])
THREAD = "t1"


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as opened:
        opened.add([Document(id="d", text="Thirty days of leave.", acl=["staff"])])
        yield opened


def written(index: LateInteractionIndex) -> list[dict[str, Any]]:
    """Memory writes of the log, oldest first."""
    events = index.audit.events(kind="memory_write", limit=1000)
    assert {event.principal_id for event in events} <= {"ann"}
    return [dict(event.payload) | {"event_id": event.event_id} for event in events]


def said(index: LateInteractionIndex) -> list[str]:
    return [entry.text for entry in index.memory.recall(ANN, THREAD, set)]


def test_what_is_remembered_by_hand_is_recorded_and_its_text_is_not(index):
    index.memory.remember(ANN, THREAD, [Turn("assistant", "a secret answer"), ToolSignal("clock", {"at": 12})])
    answer, tool = written(index)
    assert (answer["operation"], answer["role"], answer["tool"], answer["thread"]) == (
        "remember",
        "assistant",
        "",
        THREAD,
    )
    assert (tool["role"], tool["tool"]) == ("tool", "clock")
    assert answer["characters"] == len("a secret answer")
    assert "secret" not in repr(answer)
    assert index.audit.confirms(answer["event_id"], "a secret answer")
    assert index.audit.confirms(tool["event_id"], '{"at": 12}')


CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "odd",
    [{("a", 1): 1}, {1: 1, "a": 2}, CIRCLE, {"a": Mute()}],
    ids=["tuple key", "two kinds", "circle", "mute object"],
)
def test_an_answer_that_is_no_json_is_recorded_as_far_as_it_goes(index, odd):
    index.memory.remember(ANN, THREAD, [ToolSignal("odd", odd)])
    index.search("leave", principal=ANN, thread_id=THREAD, tool_signals=[ToolSignal("odd", odd)])
    assert [one["tool"] for one in written(index)] == ["odd", "odd", ""]
    assert len(said(index)) == 3


def test_a_search_records_its_turn_and_its_tools_once(index):
    index.search("leave", principal=ANN, thread_id=THREAD, tool_signals=[ToolSignal("clock", "noon")])
    assert [(one["role"], one["tool"]) for one in written(index)] == [("tool", "clock"), ("user", "")]
    assert len(said(index)) == 2
    index.search("leave", principal=ANN, thread_id=THREAD, remember=False)
    assert len(written(index)) == 2


def test_forgetting_is_recorded(index):
    index.memory.forget(ANN, THREAD)
    index.memory.forget(ANN)
    assert [(one["operation"], one["thread"]) for one in written(index)] == [("forget", THREAD), ("forget", None)]


def test_what_cannot_be_recorded_is_neither_remembered_nor_forgotten(index, monkeypatch):
    index.memory.remember(ANN, THREAD, [Turn("user", "before")])

    def full(*args: object) -> None:
        raise StoreError("the disk is full", store="audit", operation="append")

    monkeypatch.setattr(index.audit._writer, "append", full)
    with pytest.raises(StoreError, match="disk is full"):
        index.memory.remember(ANN, THREAD, [Turn("user", "after")])
    with pytest.raises(StoreError, match="disk is full"):
        index.memory.forget(ANN, THREAD)
    assert said(index) == ["before"]


def test_an_agents_middleware_is_recorded(index):
    pytest.importorskip("langchain.agents", reason="pip install 'lir-agents[langchain]'")
    from langchain.agents import create_agent
    from langchain_core.language_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, HumanMessage

    from lir_agents.graph.context import RetrievalContext
    from lir_agents.langchain import LateInteractionMiddleware

    agent = create_agent(
        GenericFakeChatModel(messages=iter([AIMessage("thirty")])),
        [],
        middleware=[LateInteractionMiddleware(index, offer_tool=False)],
        context_schema=RetrievalContext,
    )
    agent.invoke({"messages": [HumanMessage("how long?")]}, context=RetrievalContext(ANN, THREAD))
    assert said(index) == ["how long?", "thirty"]
    assert [one["role"] for one in written(index)] == ["user", "assistant"]


def test_a_chat_memorys_block_is_recorded(index):
    pytest.importorskip("llama_index.core", reason="pip install 'lir-agents[llama-index]'")
    from llama_index.core.base.llms.types import ChatMessage

    from lir_agents.llama_index import LateInteractionMemoryBlock

    block = LateInteractionMemoryBlock(index=index, principal=ANN, thread_id=THREAD)
    asyncio.run(block.aput([ChatMessage(role="user", content="how long?")]))
    assert said(index) == ["how long?"]
    assert [one["role"] for one in written(index)] == ["user"]


def test_the_log_still_verifies(index):
    index.memory.remember(ANN, THREAD, [ToolSignal("odd", {"nan": float("nan"), "thing": object()})])
    index.memory.forget(ANN)
    assert index.audit.verify().ok
