"""What telemetry costs a search: on, with spans and metrics of the official SDK, against off.

On and off take turns by blocks rather than by searches: spans are made by a thread of their own, and what it takes
from the processor must not be charged to the search after, which runs without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.bench import Bench
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.timing import percentiles, ratio
from lir_agents import LateInteractionIndex
from lir_agents.config import TelemetrySettings
from lir_agents.telemetry import observe, switch_on
from lir_agents.types import SearchResult, StageCoverage

PASSAGES = 10_000
_QUERIES = 200
_BLOCK = 20
_ROUNDS = 6
_STAGES = ("authorize", "first_stage", "rerank", "record")
_REPEATED = 10_000


def run(bench: Bench) -> None:
    """One file: telemetry."""
    if bench.standing("speed/telemetry") is None:
        with mixed(bench, passages_wanted(bench, PASSAGES)) as index:
            bench.write("speed/telemetry", _cost(index, questions(bench, _QUERIES)))


def _cost(index: LateInteractionIndex, queries: Sequence[str]) -> dict[str, Any]:
    """Whole searches, k = 10. "off again" is off as well: what chance makes of two measurements of the same."""
    taken: dict[str, list[float]] = {"off": [], "on": [], "off again": []}
    for query in queries:
        index.search(query, k=10)
    order = list(taken)
    for _ in range(_ROUNDS):
        for start in range(0, len(queries), _BLOCK):
            for name in order:
                taken[name] += _block(index, queries[start : start + _BLOCK], on=name == "on")
            order = [*order[1:], order[0]]
    left_us = _left_when_off(index.search(queries[0], k=10))
    summary = percentiles(taken)
    return {
        "passages": index.stats()["live_passages"],
        "searches": len(taken["off"]),
        "latency_ms": summary,
        "on to off": ratio(taken, "on", "off"),
        "off to off": ratio(taken, "off again", "off"),
        "left_when_off_us": left_us,
        "left_when_off_share": left_us / 1000 / summary["off"]["p50"],
    }


def _block(index: LateInteractionIndex, queries: Sequence[str], *, on: bool) -> list[float]:
    taken = []
    with _switched(on):
        for query in queries:
            start = time.perf_counter()
            index.search(query, k=10)
            taken.append((time.perf_counter() - start) * 1000)
    return taken


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """Spans in batches to an exporter that drops them, metrics as Prometheus would read them."""
    if not on:
        yield
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
    telemetry = switch_on(TelemetrySettings(enabled=True), tracer_provider=tracers, meter_provider=meters)
    try:
        yield
    finally:
        telemetry.shutdown()
        tracers.shutdown()
        meters.shutdown()


def _left_when_off(result: SearchResult) -> float:
    """Microseconds of all that a search says to telemetry while nobody listens."""
    ended = StageCoverage("ok")
    start = time.perf_counter()
    for _ in range(_REPEATED):
        with observe("search") as search:
            for name in _STAGES:
                with observe(name) as stage:
                    stage.end(ended)
            search.end(result)
    return (time.perf_counter() - start) / _REPEATED * 1e6
