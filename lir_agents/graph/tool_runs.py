"""Runs the tools that were asked for, each with a deadline, and turns what they answer into signals."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest

from lir_agents.deadline import SideCalls
from lir_agents.errors import InputError
from lir_agents.memory.records import as_text, clean, plain
from lir_agents.types import ToolSignal

__all__ = ["ToolRun", "run_tools", "signal_of"]

_CALLS: Final = SideCalls("lir-tool", at_most=32)
"""Of the whole process: tools that hang for ever can cost so many threads and no more."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One tool that ran: its signal, what it was given as JSON data, and how long it took in milliseconds."""

    signal: ToolSignal
    arguments: Mapping[str, Any]
    elapsed_ms: float


def run_tools(
    tools: Sequence[BaseTool],
    calls: Sequence[Mapping[str, Any]],
    config: Any,
    *,
    timeout_s: float,
    max_chars: int,
) -> list[ToolRun]:
    """Runs tool calls side by side.

    Args:
        tools: What may be called.
        calls: LangChain tool calls: "name", "args", "id".
        config: The run's config, handed on so that callbacks and context reach the tools.
        timeout_s: Seconds that they may take; one that takes longer is left behind and its answer discarded.
        max_chars: Longest answer kept, in characters.

    Returns:
        One run per call, in order. A tool that is unknown, raises or hangs gives a signal with `error`.

    Raises:
        InputError: A call is not a mapping with a name and arguments.
    """
    asked = [_asked(call, position) for position, call in enumerate(calls)]
    runs: dict[str, ToolRun] = {}
    until = time.monotonic() + timeout_s

    def attended(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> ToolMessage:
        # ToolNode waits for its own threads, and so does the interpreter at exit: what may hang runs in ours.
        began = time.monotonic()
        signal = _signal(request, execute, until, timeout_s, max_chars)
        call = request.tool_call
        runs[str(call["id"])] = ToolRun(signal, _arguments(call), (time.monotonic() - began) * 1000)
        return ToolMessage(signal.error, tool_call_id=str(call["id"]))

    known = {tool.name for tool in tools}
    failure = "no such tool"
    if runnable := [call for call in asked if call["name"] in known]:
        node = ToolNode([_synchronous(tool) for tool in tools], wrap_tool_call=attended)
        try:
            node.invoke({"messages": [AIMessage(content="", tool_calls=runnable)]}, config)
        except Exception as error:  # noqa: BLE001 - what ToolNode cannot hand to a tool is that tool's failure
            failure = clean(f"{type(error).__name__}: {error}")[:500]
    return [runs.get(str(call["id"]), _not_run(call, failure)) for call in asked]


def _not_run(call: ToolCall, failure: str) -> ToolRun:
    return ToolRun(ToolSignal(str(call["name"]), "", 0.0, error=failure), _arguments(call), 0.0)


def _asked(call: Any, position: int) -> ToolCall:
    arguments = (call.get("args") or {}) if isinstance(call, Mapping) else None
    if not isinstance(arguments, Mapping) or not isinstance(call.get("name"), str):
        raise InputError(
            f"is {call!r:.100}",
            field=f"tool_calls[{position}]",
            remedy='Write {"name": "weather", "args": {"city": "Oslo"}, "id": "1"}.',
        )
    # The position makes ids unique: models repeat them, and callers leave them out.
    return ToolCall(name=call["name"], args=dict(arguments), id=f"{call.get('id') or 'lir'}:{position}")


def _arguments(call: ToolCall) -> Mapping[str, Any]:
    arguments = plain(call["args"])
    return arguments if isinstance(arguments, dict) else {}


def _synchronous(tool: BaseTool) -> BaseTool:
    """A tool that has only a coroutine (those of MCP servers) runs it in an event loop of its own thread."""
    coroutine = getattr(tool, "coroutine", None)
    if not isinstance(tool, StructuredTool) or tool.func is not None or coroutine is None:
        return tool

    @functools.wraps(coroutine)
    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(coroutine(*args, **kwargs))

    return tool.model_copy(update={"func": run})


def _signal(
    request: ToolCallRequest,
    execute: Callable[[ToolCallRequest], Any],
    until: float,
    timeout_s: float,
    max_chars: int,
) -> ToolSignal:
    name = request.tool_call["name"]
    try:
        answer = _CALLS.run(lambda: execute(request), timeout_s=until - time.monotonic())
    except TimeoutError as error:
        return ToolSignal(name, "", 0.0, error=str(error) or f"no answer within {timeout_s:g} s")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a tool is anybody's code; its failure is a signal
        return ToolSignal(name, "", 0.0, error=clean(f"{type(error).__name__}: {error}")[:500])
    if not isinstance(answer, ToolMessage):
        return ToolSignal(name, "", 0.0, error=f"answered with {type(answer).__name__}, which is no message")
    return signal_of(name, answer, max_chars=max_chars)


def signal_of(name: str, message: ToolMessage, *, max_chars: int) -> ToolSignal:
    """What a tool answered, as a signal: in fields where it answered in fields, with its own confidence.

    Args:
        name: The tool's.
        message: Its answer, or its failure.
        max_chars: Longest text kept, in characters.
    """
    if message.status == "error":
        return ToolSignal(name, "", 0.0, error=clean(str(message.content))[:500])
    output = _output(message, max_chars)
    return ToolSignal(name, output, _confidence(output))


def _output(message: ToolMessage, max_chars: int) -> str | Mapping[str, Any]:
    """Fields where the tool answered in fields (as artifact, or as JSON), else text; JSON data either way."""
    if isinstance(message.artifact, Mapping):
        fields = plain(message.artifact)
        text = as_text(fields)
        return fields if isinstance(fields, dict) and len(text) <= max_chars else text[:max_chars]
    # Blocks of text are read as text; blocks of anything else as the JSON that they are.
    text = clean(str(message.text) or as_text(plain(message.content)))
    if text.lstrip()[:1] == "{" and len(text) <= max_chars:
        try:
            fields = plain(json.loads(text))
        except (ValueError, RecursionError):
            return text
        return fields if isinstance(fields, dict) else text
    return text[:max_chars]


def _confidence(output: str | Mapping[str, Any]) -> float:
    """A tool may say how sure it is, in a field `confidence` from 0 to 1; else it is taken at its word."""
    given = output.get("confidence") if isinstance(output, Mapping) else None
    if isinstance(given, int | float) and not isinstance(given, bool) and 0.0 <= given <= 1.0:
        return float(given)
    return 1.0
