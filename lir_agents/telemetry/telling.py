"""The thread that makes spans, metrics and lines of the log of what was observed.

What a span tells without `content`: names, statuses, counts, milliseconds, scores, the id of the audit event. An
exception is told by its class; its message may hold anything.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from lir_agents.telemetry.meters import Meters
from lir_agents.telemetry.naming import SEARCH, fixed, of_content, of_result
from lir_agents.telemetry.observing import Told
from lir_agents.types import Coverage, SearchResult, StageCoverage

__all__ = ["Teller"]

_MOST_WAITING: Final = 4096
_DELAY_S: Final = 1.0
"""Searches of a moment are told together: a thread that wakes for each takes the interpreter from the next one, and
finds its own work gone from the processor's caches."""
_MISSED: Final = ("timed_out", "failed")
_log = logging.getLogger("lir_agents.search")


class Teller:
    """Takes searches that are over and tells of them. What is too much is dropped and counted, never waited for.

    Args:
        tracer: An OpenTelemetry `Tracer`.
        meters: The instruments.
        content: Whether spans hold what was asked and found.
    """

    def __init__(self, tracer: Any, meters: Meters, *, content: bool) -> None:
        self._tracer, self._meters, self._content = tracer, meters, content
        self._waiting: SimpleQueue[Told | threading.Event | None] = SimpleQueue()
        self._hurry = threading.Event()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = -1
        self._closed = False

    def take(self, told: Told) -> None:
        """Queues a search, or a stage that belongs to none."""
        if self._closed:  # by whoever began to observe before that, and ends after it
            return
        if self._waiting.qsize() >= _MOST_WAITING:
            self._meters.dropped()
            return
        if self._pid != os.getpid():  # the first time, or the first after a fork
            self._start()
        self._waiting.put(told)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until all that was taken so far is told; whether it was in time."""
        if self._thread is None or self._pid != os.getpid():
            return True
        done = threading.Event()
        self._waiting.put(done)
        self._hurry.set()
        return done.wait(timeout_s)

    def close(self) -> None:
        """Tells what was taken, and ends the thread."""
        with self._guard:
            self._closed = True
        self.flush()
        self._waiting.put(None)
        self._hurry.set()
        with self._guard:
            self._thread, self._pid = None, -1

    def _start(self) -> None:
        with self._guard:
            if self._closed or self._pid == os.getpid():
                return
            if self._pid != -1:
                self._waiting, self._hurry = SimpleQueue(), threading.Event()  # the parent tells what it has queued
            self._thread = threading.Thread(target=self._run, name="lir-telemetry", daemon=True)
            self._thread.start()
            self._pid = os.getpid()

    def _run(self) -> None:
        waiting, hurry, going = self._waiting, self._hurry, True
        while going:
            one: Told | threading.Event | None = waiting.get()
            hurry.wait(_DELAY_S)
            hurry.clear()  # before the queue is emptied: who hurries from here on is met by the next round at once
            with suppress(Empty):
                while going := one is not None:
                    self._take_up(one)
                    one = waiting.get_nowait()

    def _take_up(self, one: Told | threading.Event | None) -> None:
        if isinstance(one, threading.Event):
            one.set()
        elif one is not None:
            with suppress(Exception):  # an exporter's trouble is its own
                self._tell(one)

    # ------------------------------------------------------------ telling

    def _tell(self, told: Told) -> None:
        if told.name == SEARCH:
            for stage in told.stages:
                self._staged(stage, trace.set_span_in_context(told.span))
            self._searched(told)
            return
        self._staged(told, told.parent)
        if not told.alone:
            return  # the search that gave it up has said so
        if isinstance(told.outcome, StageCoverage):
            self._missed(Coverage({told.name: told.outcome}))
        else:
            self._meters.raised(told.outcome)

    def _staged(self, told: Told, parent: Any) -> None:
        """The span and the milliseconds of a stage."""
        outcome = told.outcome
        status = outcome.status if isinstance(outcome, StageCoverage) else "raised"
        self._meters.stage(told.name, told.elapsed_ms)
        if told.span is None:
            span = self._tracer.start_span(
                f"lir.{told.name}",
                context=parent,
                attributes=fixed(told.name, status),
                start_time=told.started_ns,
            )
        else:
            span = told.span
            span.set_attribute("lir.status", status)
        if not isinstance(outcome, StageCoverage):
            _failed(span, _called(outcome))
        elif status in _MISSED:
            span.set_status(StatusCode.ERROR, outcome.reason if self._content else status)
        _ended(span, told)

    def _searched(self, told: Told) -> None:
        """The span, the milliseconds, the counts and the line of a search."""
        result, span = told.outcome, told.span
        about: dict[str, Any] = {"elapsed_ms": round(told.elapsed_ms, 3)}
        if isinstance(result, SearchResult):
            self._missed(result.coverage)
            about |= {"outcome": "full" if result.coverage.full else "partial", **_line(result)}
            if span.is_recording():
                span.set_attributes(of_result(result) | (of_content(result) if self._content else {}))
        else:
            about |= {"outcome": self._meters.raised(result), "error": _called(result)}
            _failed(span, about["error"])
        self._meters.search(told.elapsed_ms, about["outcome"])
        _ended(span, told)
        level = logging.INFO if about["outcome"] == "full" else logging.WARNING
        if _log.isEnabledFor(level):
            token = contexts.attach(trace.set_span_in_context(span))
            _log.log(level, "search", extra={"lir": about})
            contexts.detach(token)

    def _missed(self, coverage: Coverage) -> None:
        for name, stage in coverage.stages.items():
            if stage.status in _MISSED:
                self._meters.fallback(name, stage.status)


def _line(result: SearchResult) -> dict[str, Any]:
    """What a line of the log says of a search that was answered."""
    stages = {
        name: {"status": one.status, "elapsed_ms": round(one.elapsed_ms, 3)}
        for name, one in result.coverage.stages.items()
    }
    return {"hits": len(result.hits), "event_id": result.event_id, "stages": stages}


def _called(outcome: Any) -> str:
    """The class of what was raised; a block that was left without a word has none."""
    return outcome.__name__ if isinstance(outcome, type) else "unknown"


def _failed(span: Any, name: str) -> None:
    span.set_status(StatusCode.ERROR, name)
    span.set_attribute("error.type", name)


def _ended(span: Any, told: Told) -> None:
    span.end(told.started_ns + int(told.elapsed_ms * 1e6))
