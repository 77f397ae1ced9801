"""Runs the tools that were asked for, each with a deadline, and turns what they answer into signals."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt import ToolNode

from lir_agents.deadline import SideCalls
from lir_agents.errors import InputError
from lir_agents.memory.records import clean, plain
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back of a call, and when."""

    message: Any
    at: float


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
    node = ToolNode(list(tools), handle_tool_errors=True)
    known = {tool.name for tool in tools}
    began = time.monotonic()
    until = began + timeout_s

    def start(message: AIMessage) -> Future[_Answer] | str:
        if message.tool_calls[0]["name"] not in known:
            return "no such tool"

        def call() -> _Answer:
            answered = node.invoke({"messages": [message]}, config)
            return _Answer(answered["messages"][-1], time.monotonic())

        try:
            return _CALLS.start(call, timeout_s=until - time.monotonic())
        except TimeoutError as error:
            return f"not started: {error}"

    runs = []
    for message, started in [(message, start(message)) for message in asked]:
        signal, at = _waited_for(message.tool_calls[0]["name"], started, until, timeout_s, max_chars)
        arguments = plain(message.tool_calls[0]["args"])
        runs.append(ToolRun(signal, arguments if isinstance(arguments, dict) else {}, (at - began) * 1000))
    return runs


def _asked(call: Any, position: int) -> AIMessage:
    arguments = (call.get("args") or {}) if isinstance(call, Mapping) else None
    if not isinstance(arguments, Mapping) or not isinstance(call.get("name"), str):
        raise InputError(
            f"is {call!r:.100}",
            field=f"tool_calls[{position}]",
            remedy='Write {"name": "weather", "args": {"city": "Oslo"}, "id": "1"}.',
        )
    asked = {"name": call["name"], "args": dict(arguments), "id": str(call.get("id") or "lir")}
    return AIMessage(content="", tool_calls=[{**asked, "type": "tool_call"}])


def _waited_for(
    name: str, started: Future[_Answer] | str, until: float, timeout_s: float, max_chars: int
) -> tuple[ToolSignal, float]:
    """The signal, and when it was there."""
    if isinstance(started, str):
        return ToolSignal(name, "", 0.0, error=started), time.monotonic()
    try:
        answer = started.result(timeout=max(0.0, until - time.monotonic()))
    except TimeoutError:
        return ToolSignal(name, "", 0.0, error=f"no answer within {timeout_s:g} s"), time.monotonic()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a tool is anybody's code; its failure is a signal
        return ToolSignal(name, "", 0.0, error=clean(f"{type(error).__name__}: {error}")[:500]), time.monotonic()
    if not isinstance(answer.message, ToolMessage):
        return ToolSignal(name, "", 0.0, error=f"answered with {type(answer.message).__name__}"), answer.at
    return signal_of(name, answer.message, max_chars=max_chars), answer.at


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
        fields, text = plain(message.artifact), clean(json.dumps(plain(message.artifact), ensure_ascii=False))
        return fields if isinstance(fields, dict) and len(text) <= max_chars else text[:max_chars]
    # Blocks of text are read as text; blocks of anything else as the JSON that they are.
    text = clean(str(message.text) or json.dumps(plain(message.content), ensure_ascii=False))
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
