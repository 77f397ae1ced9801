"""Switching telemetry on: which providers, which exporters, and off again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lir_agents.config import TelemetrySettings
from lir_agents.errors import ConfigError, MissingExtra
from lir_agents.telemetry import observe_with

__all__ = ["Telemetry", "begin"]

_guard = threading.Lock()
_running: Telemetry | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """Telemetry that is switched on.

    Attributes:
        settings: What it was switched on with.
        providers: The tracer's and the meter's provider that were handed over; None where none was.
        prometheus_port: Where metrics are scraped; None where they are not.
        flush: Waits until every search that is over has been told of (a few milliseconds); whether it was in time.
    """

    settings: TelemetrySettings
    providers: tuple[Any, Any]
    prometheus_port: int | None
    flush: Callable[[], bool]
    _resources: ExitStack

    def shutdown(self) -> None:
        """Switches it off; what waits to be exported is exported first. Idempotent."""
        global _running
        with _guard:
            if _running is self:
                observe_with(None)
                _running = None
            self._resources.close()


def begin(settings: TelemetrySettings | None, *, tracer_provider: Any, meter_provider: Any) -> Telemetry:
    """See `lir_agents.telemetry.switch_on`."""
    global _running
    asked, given = settings or TelemetrySettings(enabled=True), (tracer_provider, meter_provider)
    with _guard:
        if _running is not None and (_running.settings, _running.providers) != (asked, given):
            raise ConfigError(
                "it is on already, with other settings",
                setting="telemetry",
                remedy="Telemetry is one for the process: shut the first down, or switch both on alike.",
            )
        if _running is None:
            with ExitStack() as opening:
                _running = _started(asked, given, opening)
        return _running


def _started(asked: TelemetrySettings, given: tuple[Any, Any], opening: ExitStack) -> Telemetry:
    try:
        from lir_agents.telemetry.meters import Meters
        from lir_agents.telemetry.observing import Observing
        from lir_agents.telemetry.telling import Teller

        tracers = given[0] or _tracers(asked, opening)
        meters, port = (given[1], None) if given[1] else _meters(asked, opening)
    except ImportError as error:
        raise MissingExtra("telemetry", extra="telemetry") from error
    tracer, measured = tracers.get_tracer("lir_agents"), Meters(meters)
    teller = Teller(tracer, measured, content=asked.content)
    if asked.logs:
        from lir_agents.telemetry.logs import write_json

        opening.callback(write_json(content=asked.content))
    opening.callback(teller.close)  # before the exporters are
    observe_with(Observing(tracer, teller.take), measured.count)
    return Telemetry(asked, given, port, teller.flush, opening.pop_all())


def _tracers(asked: TelemetrySettings, opening: ExitStack) -> Any:
    """The provider of spans: the process's own, one that exports, or one that does nothing."""
    from opentelemetry import trace

    if asked.traces != "otlp":
        return trace.get_tracer_provider() if asked.traces == "host" else trace.NoOpTracerProvider()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(asked), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=asked.otlp_endpoint or None)))
    opening.callback(provider.shutdown)
    return provider


def _meters(asked: TelemetrySettings, opening: ExitStack) -> tuple[Any, int | None]:
    """The provider of metrics, and the port of the page if there is one."""
    from opentelemetry import metrics

    if asked.metrics in ("host", "off"):
        return metrics.get_meter_provider() if asked.metrics == "host" else metrics.NoOpMeterProvider(), None
    from opentelemetry.sdk.metrics import MeterProvider

    port: int | None = None
    if asked.metrics == "otlp":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(endpoint=asked.otlp_endpoint or None)
        reader: Any = PeriodicExportingMetricReader(exporter)
    else:
        reader, port = _page(asked, opening)
    provider = MeterProvider([reader], resource=_resource(asked), shutdown_on_exit=False)
    opening.callback(provider.shutdown)
    return provider, port


def _page(asked: TelemetrySettings, opening: ExitStack) -> tuple[Any, int]:
    """A page of this package's metrics alone, for Prometheus to scrape."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(asked.prometheus_port, asked.prometheus_host, registry)
    except OSError as error:
        raise ConfigError(
            f"{asked.prometheus_host}:{asked.prometheus_port}: {error.strerror or error}",
            setting="telemetry.prometheus_port",
            remedy="Name a free port, or 0.",
        ) from error
    opening.callback(thread.join)
    opening.callback(server.server_close)
    opening.callback(server.shutdown)
    return PrometheusMetricReader(registry=registry), int(server.server_port)


def _resource(asked: TelemetrySettings) -> Any:
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": asked.service_name})
