"""Spans and metrics as a collector receives them: OTLP over gRPC, from an index opened with settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_rpc

from lir_agents import Document, LateInteractionIndex
from lir_agents.config import Settings
from lir_agents.telemetry import switch_on
from tests.hashed_encoder import HashedEncoder


class Collector:
    """A real server that keeps what it is sent."""

    def __init__(self) -> None:
        self.traces: list[Any] = []
        self.metrics: list[Any] = []
        self.server = grpc.server(ThreadPoolExecutor(2))
        traces_rpc.add_TraceServiceServicer_to_server(
            _servicer(self.traces, traces.ExportTraceServiceResponse), self.server
        )
        metrics_rpc.add_MetricsServiceServicer_to_server(
            _servicer(self.metrics, metrics.ExportMetricsServiceResponse), self.server
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()


def _servicer(kept: list[Any], answer: Any) -> Any:
    class Servicer:
        def Export(self, request: Any, context: Any) -> Any:
            kept.append(request)
            return answer()

    return Servicer()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.stop(None)


def test_a_collector_receives_the_spans_and_metrics_of_a_search(collector: Collector, quick_path: Path) -> None:
    asked = {"enabled": True, "traces": "otlp", "metrics": "otlp", "service_name": "a service"}
    settings = Settings(telemetry={**asked, "otlp_endpoint": f"http://127.0.0.1:{collector.port}"})
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder(), settings=settings) as index:
        telemetry = switch_on(settings.telemetry)
        index.add([Document("The quetzal sleeps.", id="okapi")])
        index.search("quetzal")
        telemetry.shutdown()  # what waits is exported first
    (resource,) = [one for request in collector.traces for one in request.resource_spans]
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    names = {span.name for span in spans}
    assert names == {"lir.search", "lir.authorize", "lir.first_stage", "lir.rerank", "lir.record"}
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "a service"
    measured = {
        metric.name: metric
        for request in collector.metrics
        for one in request.resource_metrics
        for scope in one.scope_metrics
        for metric in scope.metrics
    }
    (point,) = measured["lir.search.duration"].histogram.data_points
    assert (point.count, measured["lir.search.duration"].unit) == (1, "ms")
    assert tuple(point.explicit_bounds)[3:6] == (5, 7.5, 10)
    sent = str(collector.traces) + str(collector.metrics)
    assert "quetzal" not in sent
    assert "okapi" not in sent


def test_a_collector_that_is_away_costs_a_search_nothing(quick_path: Path) -> None:
    settings = Settings(
        telemetry={"enabled": True, "traces": "otlp", "metrics": "off", "otlp_endpoint": "http://127.0.0.1:9"}
    )
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder(), settings=settings) as index:
        telemetry = switch_on(settings.telemetry)
        try:
            index.add([Document("A text.", id="a")])
            results = [index.search("text") for _ in range(20)]
            assert telemetry.flush()
        finally:
            telemetry.shutdown()
    assert all(result.coverage.full for result in results)
    assert sorted(result.timings_ms["total"] for result in results)[10] < 1000
