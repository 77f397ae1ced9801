"""Runs the tools that were asked for, each with a deadline, and turns what they answer into signals."""

from __future__ import annotations

import contextvars
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt import ToolNode

from lir_agents.types import ToolSignal

__all__ = ["ToolRun", "run_tools", "signal_of"]

_WORKERS = 8


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One tool that ran: its signal, what it was given, and how long it took in milliseconds."""

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
        timeout_s: Seconds that each may take; one that takes longer is left behind and its answer discarded.
        max_chars: Longest answer kept, in characters.

    Returns:
        One run per call, in order. A tool that is unknown, raises or hangs gives a signal with `error`.
    """
    node = ToolNode(list(tools), handle_tool_errors=True)
    known = {tool.name for tool in tools}
    # Not a context manager: leaving it would wait for the tool that hangs.
    pool = ThreadPoolExecutor(max_workers=min(len(calls), _WORKERS), thread_name_prefix="lir-tool")
    started = time.monotonic()
    futures: list[Future[Any] | None] = []
    for call in calls:
        context = contextvars.copy_context()
        futures.append(
            pool.submit(context.run, node.invoke, {"messages": [_asked(call)]}, config)
            if call.get("name") in known
            else None
        )
    runs = []
    for call, future in zip(calls, futures, strict=True):
        left = max(0.0, started + timeout_s - time.monotonic())
        signal = _signal(str(call.get("name", "")), future, left, timeout_s, max_chars)
        runs.append(ToolRun(signal, dict(call.get("args") or {}), (time.monotonic() - started) * 1000))
    pool.shutdown(wait=False, cancel_futures=True)
    return runs


def _asked(call: Mapping[str, Any]) -> AIMessage:
    asked = {"name": call["name"], "args": dict(call.get("args") or {}), "id": str(call.get("id") or "lir")}
    return AIMessage(content="", tool_calls=[{**asked, "type": "tool_call"}])


def _signal(name: str, future: Future[Any] | None, left_s: float, timeout_s: float, max_chars: int) -> ToolSignal:
    if future is None:
        return ToolSignal(name, "", 0.0, error="no such tool")
    try:
        answered = future.result(timeout=left_s)
    except FutureTimeout:
        return ToolSignal(name, "", 0.0, error=f"no answer within {timeout_s:g} s")
    except Exception as error:  # noqa: BLE001 - a tool is anybody's code; its failure is a signal, not ours
        return ToolSignal(name, "", 0.0, error=f"{type(error).__name__}: {error}"[:500])
    message = answered["messages"][-1]
    if not isinstance(message, ToolMessage):
        return ToolSignal(name, "", 0.0, error=str(getattr(message, "content", message))[:500])
    return signal_of(name, message, max_chars=max_chars)


def signal_of(name: str, message: ToolMessage, *, max_chars: int) -> ToolSignal:
    """What a tool answered, as a signal: in fields where it answered in fields, with its own confidence.

    Args:
        name: The tool's.
        message: Its answer, or its failure.
        max_chars: Longest text kept, in characters.
    """
    if message.status == "error":
        return ToolSignal(name, "", 0.0, error=str(message.content)[:500])
    output = _output(message, max_chars)
    return ToolSignal(name, output, _confidence(output))


def _output(message: ToolMessage, max_chars: int) -> str | Mapping[str, Any]:
    """Fields where the tool answered in fields (as artifact, or as JSON), else text."""
    if isinstance(message.artifact, Mapping):
        return dict(message.artifact)
    text = message.content if isinstance(message.content, str) else json.dumps(message.content, default=str)
    if text[:1] == "{" and len(text) <= max_chars:
        try:
            fields = json.loads(text)
        except ValueError:
            return text
        return fields if isinstance(fields, dict) else text
    return text[:max_chars]


def _confidence(output: str | Mapping[str, Any]) -> float:
    """A tool may say how sure it is, in a field `confidence` from 0 to 1; else it is taken at its word."""
    given = output.get("confidence") if isinstance(output, Mapping) else None
    if isinstance(given, int | float) and not isinstance(given, bool) and 0.0 <= given <= 1.0:
        return float(given)
    return 1.0
