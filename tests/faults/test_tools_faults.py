"""Tools that hang, raise, exit, answer megabytes or nonsense: a signal of failure, and the search goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, StateGraph

from lir_agents import Document, LateInteractionIndex, Principal, ToolBinding, ToolSignal
from lir_agents.config import MemorySettings, SearchSettings, Settings
from lir_agents.errors import InputError
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.tool_runs import ToolRun, run_tools
from lir_agents.types import SearchResult
from tests.hashed_encoder import HashedEncoder

STAFF = Principal("sam", groups=["group:staff"])
LET_GO = threading.Event()


@tool
def hang() -> str:
    """Does not answer."""
    LET_GO.wait(60)
    return "too late"


@tool
def fail() -> str:
    """Raises."""
    raise RuntimeError("the service is down \ud800")


@tool
def leave() -> str:
    """Ends the process, it thinks."""
    raise SystemExit(3)


@tool
def time_out() -> str:
    """Raises what a deadline raises."""
    raise TimeoutError("upstream")


@tool
def flood() -> str:
    """Answers fifty megabytes."""
    return "leave " * 9_000_000


@tool(response_format="content_and_artifact")
def flood_fields() -> tuple[str, dict[str, Any]]:
    """Answers megabytes in fields."""
    return "see the artifact", {"n": 3, "rows": ["x" * 100] * 30_000}


@tool(response_format="content_and_artifact")
def objects() -> tuple[str, Any]:
    """Answers what is no JSON."""
    return "", {
        "n": 3,
        "when": datetime(2026, 1, 1),
        "set": {1},
        "nan": float("nan"),
        "huge": 2**99,
        "raw": b"\xff",
    }


@tool(response_format="content_and_artifact")
def circle() -> tuple[str, Any]:
    """Answers something without an end."""
    fields: dict[str, Any] = {"n": 3}
    fields["self"] = fields
    return "", fields


@tool
def broken_json() -> str:
    """Answers what looks like JSON."""
    return '{"n": 3'


@tool
def deep_json() -> str:
    """Answers a bottomless pit."""
    return '{"n":' * 3000 + "1" + "}" * 3000


@tool
def nested_json() -> str:
    """Answers deeper than the audit log and stores take."""
    return '{"n":' * 300 + "1" + "}" * 300


@tool(response_format="content_and_artifact")
def nested_fields() -> tuple[str, Any]:
    """The same, in fields."""
    fields: dict[str, Any] = {"n": 1}
    for _ in range(100):
        fields = {"n": [fields]}
    return "", fields


class Mute:
    """Cannot be written down."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@tool(response_format="content_and_artifact")
def mute_fields() -> tuple[str, Any]:
    """Answers an object that cannot be written down."""
    return "", {"n": 3, "object": Mute()}


@tool
def strange() -> Any:
    """Answers an object."""
    return object()


@tool
def nothing() -> Any:
    """Answers nothing."""
    return None


@tool
def fine(number: int = 3) -> dict[str, Any]:
    """Names a rule."""
    return {"n": number}


@tool
async def fetch(number: int) -> dict[str, Any]:
    """Has only a coroutine, as the tools of MCP servers do."""
    await asyncio.sleep(0.01)
    return {"n": number}


@tool
async def hang_softly() -> str:
    """A coroutine that does not end."""
    await asyncio.sleep(60)
    return ""


TOOLS = [
    hang,
    fail,
    leave,
    time_out,
    flood,
    flood_fields,
    objects,
    circle,
    broken_json,
    deep_json,
    nested_json,
    nested_fields,
    mute_fields,
    strange,
    nothing,
]
SETTINGS = Settings(search=SearchSettings(tool_timeout_s=2.0), memory=MemorySettings(max_chars=2000))


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    LET_GO.clear()
    yield
    LET_GO.set()


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    names = [one.name for one in [*TOOLS, fine]]
    with LateInteractionIndex.open(
        quick_path / "i.lir",
        access="acl",
        encoder=encoder,
        settings=SETTINGS,
        bindings=[ToolBinding(name, "n", "n") for name in names],
    ) as opened:
        opened.add(
            Document(id=f"d{n}", text=f"Rule {n} about leave.", acl=["group:staff"], metadata={"n": n})
            for n in range(12)
        )
        yield opened


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "args": arguments, "id": f"c-{name}"}


def ask(index: LateInteractionIndex, calls: Any, tools: list[BaseTool] | None = None, **more: Any) -> SearchResult:
    graph = build_graph(index, tools=[*TOOLS, fine] if tools is None else tools).compile()
    result: SearchResult = graph.invoke(
        {"query": "a rule about leave", "tool_calls": calls, **more}, context=RetrievalContext(STAFF, "t")
    )["result"]
    return result


def runs(tools: list[BaseTool], calls: list[Any], **limits: Any) -> list[ToolRun]:
    """`run_tools` where it belongs: in the node of a graph, whose runtime the tools may ask for."""
    done: list[ToolRun] = []

    def node(state: dict[str, Any], config: RunnableConfig) -> None:
        done.extend(run_tools(tools, calls, config, **{"timeout_s": 5.0, "max_chars": 1000, **limits}))

    graph: Any = StateGraph(dict)
    graph.add_node("tools", node)
    graph.add_edge(START, "tools")
    graph.compile().invoke({})
    return done


def told(result: SearchResult) -> list[Any]:
    return [(hit.passage_id, hit.score, hit.breakdown) for hit in result]


@pytest.mark.parametrize("bad", [fail, leave, time_out, hang], ids=lambda one: one.name)
def test_a_tool_that_fails_moves_nothing_and_is_named(index, bad):
    plain = told(index.search("a rule about leave", principal=STAFF))
    started = time.monotonic()
    result = ask(index, [call(bad.name)])
    assert time.monotonic() - started < 8
    assert told(result) == plain
    tools = result.coverage.stages["tools"]
    assert tools.status == "failed"
    assert bad.name in tools.reason
    event = index.audit.events(kind="tool_call")[-1]
    assert event.payload["tool"] == bad.name
    assert event.payload["error"]
    (entry, turn) = index.memory.recall(STAFF, "t", set)
    assert (entry.kind, bool(entry.error), turn.text) == ("tool", True, "a rule about leave")
    assert told(index.search("a rule about leave", principal=STAFF, thread_id="u")) == plain


@pytest.mark.parametrize("odd", TOOLS[4:], ids=lambda one: one.name)
def test_an_odd_answer_is_bounded_recorded_remembered_and_harms_nothing(index, odd):
    result = ask(index, [call(odd.name)])
    assert len(result) == 10
    assert result.coverage.stages["tools"].status == "ok"
    assert result.coverage.stages["memory"].status in ("ok", "skipped")
    assert {hit.document_id for hit in result} <= {f"d{n}" for n in range(12)}
    entries = index.memory.recall(STAFF, "t", set)
    assert [entry.kind for entry in entries] == ["tool", "user"]
    assert all(len(entry.text) <= 2000 for entry in entries)
    assert index.search("and again?", principal=STAFF, thread_id="t").coverage.full
    assert not index.audit.verify().problems


def test_fields_count_although_their_neighbours_are_no_json(index):
    assert ask(index, [call("objects")])[0].document_id == "d3"


def test_others_answer_while_one_hangs(index):
    started = time.monotonic()
    result = ask(index, [call("hang"), call("fine"), call("hang"), call("fail")])
    assert time.monotonic() - started < 8
    assert result[0].document_id == "d3"
    reasons = result.coverage.stages["tools"].reason
    assert reasons.count("no answer within 2 s") == 2
    assert "fail" in reasons
    elapsed = [event.payload["elapsed_ms"] for event in index.audit.events(kind="tool_call")[-4:]]
    assert elapsed[0] > 1900
    assert elapsed[1] < 1900  # its own time, not that of the one before it


def test_an_unknown_tool_is_named_and_nothing_else(index):
    plain = told(index.search("a rule about leave", principal=STAFF))
    result = ask(index, [call("rm_rf", path="/")])
    assert told(result) == plain
    assert "rm_rf: no such tool" in result.coverage.stages["tools"].reason
    nobody = ask(index, [call("fine")], tools=[])
    assert nobody.coverage.stages["tools"].status == "skipped"


@pytest.mark.parametrize("arguments", [{"number": "three"}, {"other": 1}, {"number": None}, {"number": {"$ne": 1}}])
def test_arguments_that_do_not_fit_are_a_failure_or_the_default(index, arguments):
    result = ask(index, [call("fine", **arguments)])
    assert len(result) == 10
    assert result.coverage.stages["tools"].status == ("ok" if "other" in arguments else "failed")


@pytest.mark.parametrize(
    "calls",
    [
        ["fine"],
        [None],
        [{"args": {}}],
        [{"name": 3}],
        [{"name": "fine", "args": "n=3"}],
        [{"name": "fine", "args": [1]}],
    ],
)
def test_a_malformed_call_is_refused_by_its_name(index, calls):
    with pytest.raises(InputError, match=r"tool_calls\[0\]"):
        ask(index, calls)


def test_arguments_that_are_no_json_are_recorded_as_text(index):
    assert ask(index, [call("fine", number=3, extra=object())]).coverage.stages["tools"].status == "ok"


def test_arguments_that_are_nested_deeper_than_the_log_takes_cost_nobody_the_search(index):
    deep: Any = 1
    for _ in range(100):
        deep = {"x": deep}
    assert ask(index, [call("fine", number=3, extra=deep)]).coverage.stages["tools"].status == "ok"
    assert not index.audit.verify().problems


def test_a_models_message_asks_for_tools(index):
    asked = AIMessage("", tool_calls=[{**call("fine", number=7), "type": "tool_call"}])
    result = ask(index, None, messages=[HumanMessage("a rule about leave"), asked])
    assert result[0].document_id == "d7"
    # Only the last message asks; one that a model answered since does not.
    later = ask(index, None, messages=[asked, HumanMessage("a rule about leave")])
    assert later.coverage.stages["tools"].status == "skipped"
    plain = ask(index, None, messages=[asked, AIMessage("done")])
    assert plain.coverage.stages["tools"].status == "skipped"


def test_what_the_caller_asks_for_wins_over_what_a_message_asks_for(index):
    asked = AIMessage("", tool_calls=[{**call("hang"), "type": "tool_call"}])
    result = ask(index, [call("fine", number=7)], messages=[asked])
    assert result[0].document_id == "d7"
    assert result.coverage.stages["tools"].status == "ok"


def test_tools_that_hang_for_ever_cost_a_bounded_number_of_threads():
    for _ in range(5):
        runs([hang], [call("hang")] * 10, timeout_s=0.3)
    assert sum(thread.name == "lir-tool" for thread in threading.enumerate()) <= 32
    (run,) = runs([fine], [call("fine")], timeout_s=0.3)
    assert "taken" in run.signal.error
    LET_GO.set()
    until = time.monotonic() + 10
    while any(thread.name == "lir-tool" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    (run,) = runs([fine], [call("fine")])
    assert run.signal == ToolSignal("fine", {"n": 3})


_HUNG = """
import time
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from lir_agents.graph.tool_runs import run_tools

@tool
def hang() -> str:
    "Does not answer."
    time.sleep(120)
    return ""

def node(state: dict, config: RunnableConfig) -> None:
    (run,) = run_tools([hang], [{"name": "hang", "args": {}, "id": "1"}], config, timeout_s=0.2, max_chars=10)
    print(run.signal.error)

graph = StateGraph(dict)
graph.add_node("tools", node)
graph.add_edge(START, "tools")
graph.compile().invoke({})
"""


def test_a_hanging_tool_does_not_keep_the_process_alive():
    done = subprocess.run([sys.executable, "-c", _HUNG], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "no answer within 0.2 s"


@pytest.mark.parametrize("given", [0.2, "high", -1, 7, None, True, float("nan")])
def test_a_tool_says_how_sure_it_is_and_nonsense_is_no_confidence(given):
    @tool
    def sure() -> dict[str, Any]:
        """Answers with a confidence."""
        return {"n": 3, "confidence": given}

    (run,) = runs([sure], [call("sure")])
    assert run.signal.confidence == (0.2 if given == 0.2 else 1.0)


def test_a_tool_that_has_only_a_coroutine_runs_and_has_a_deadline():
    started = time.monotonic()
    slow, quick = runs([fetch, hang_softly], [call("hang_softly"), call("fetch", number=3)], timeout_s=1.0)
    assert time.monotonic() - started < 10
    assert slow.signal.error == "no answer within 1 s"
    assert quick.signal == ToolSignal("fetch", {"n": 3})


async def test_coroutines_run_under_somebody_elses_event_loop_too(index):
    graph = build_graph(index, tools=[fetch]).compile()
    given = {"query": "a rule about leave", "tool_calls": [call("fetch", number=3)]}
    result = (await graph.ainvoke(given, context=RetrievalContext(STAFF)))["result"]
    assert result.coverage.stages["tools"].status == "ok"


def test_calls_with_one_id_are_told_apart():
    twice = runs([fine], [{**call("fine", number=n), "id": "same"} for n in (1, 2)])
    assert [run.signal.output for run in twice] == [{"n": 1}, {"n": 2}]
    assert [run.arguments for run in twice] == [{"number": 1}, {"number": 2}]
