"""What telemetry tells of a search, and above all what it does not."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.store.memory import InMemoryStore
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lir_agents import (
    AccessDenied,
    BudgetExceeded,
    ConfigError,
    Document,
    InputError,
    LateInteractionIndex,
    Overloaded,
    Principal,
    ToolSignal,
)
from lir_agents.config import Settings, TelemetrySettings
from lir_agents.graph import RetrievalContext, build_graph
from lir_agents.graph.texts import TextReranker
from lir_agents.telemetry import observe, switch_on
from lir_agents.telemetry.logs import JsonFormatter
from lir_agents.types import Coverage, SearchResult, StageCoverage
from tests.hashed_encoder import HashedEncoder

STAGES = {"authorize", "memory", "tools", "first_stage", "rerank", "record"}
RUN = STAGES - {"memory", "tools"}
"""The stages of a search without conversation and tools; what is skipped does nothing that could be timed."""
CANARIES = ("quetzal", "okapi", "axolotl", "narwhal", "pangolin", "tapir", "dugong", "kakapo", "numbat")
WHO = Principal("narwhal", groups=["group:pangolin"], tenant="tapir", attributes={"dugong": "dugong"})
EVERYTHING = TelemetrySettings(enabled=True, logs=True)


class FaultyStore(InMemoryStore):
    """A real store that does something else first, when told to."""

    trouble: Callable[[], None] | None = None

    def batch(self, ops: Any) -> Any:
        if self.trouble is not None:
            self.trouble()
        return super().batch(ops)


class Heard:
    """Everything that is told, in memory."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = switch_on(settings, tracer_provider=tracers, meter_provider=meters)

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        assert self.telemetry.flush()
        return self.exporter.get_finished_spans()

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name.removeprefix("lir."): span for span in self.finished}

    def points(self) -> dict[str, list[Any]]:
        """Data points by the metric's name."""
        assert self.telemetry.flush()
        data = self.reader.get_metrics_data()
        metrics = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    def total(self, name: str, **labels: str) -> float:
        return sum(
            one.value for one in self.points().get(name, ()) if labels.items() <= dict(one.attributes).items()
        )

    def everything(self) -> str:
        data = self.reader.get_metrics_data()
        spans = "".join(span.to_json() for span in self.finished)
        return spans + ("" if data is None else data.to_json())


@pytest.fixture
def hear() -> Iterator[Callable[..., Heard]]:
    heard: list[Heard] = []

    def listen(settings: TelemetrySettings = EVERYTHING) -> Heard:
        heard.append(Heard(settings))
        return heard[-1]

    yield listen
    for one in heard:
        one.telemetry.shutdown()


@pytest.fixture
def index(quick_path: Path) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(
        quick_path / "i.lir", access="acl", encoder=HashedEncoder(), store=FaultyStore()
    ) as opened:
        opened.add(
            Document(
                f"The okapi number {n} sleeps.", id=f"axolotl/{n}", title="okapi", acl=["group:pangolin"],
                metadata={"kakapo": "kakapo"},
            )
            for n in range(6)
        )  # fmt: skip
        yield opened


# ---------------------------------------------------------------- what is told


def test_a_search_is_a_span_and_its_stages_lie_within(index, hear):
    heard = hear()
    result = index.search("when does the quetzal sleep?", k=3, principal=WHO, thread_id="t")
    spans = heard.spans
    assert spans.keys() == {"search", "memory", *RUN}
    assert {span.parent and span.parent.span_id for name, span in spans.items()} == {
        None,
        spans["search"].context.span_id,
    }
    told = dict(spans["search"].attributes)
    assert told["openinference.span.kind"] == "RETRIEVER"
    assert told["gen_ai.operation.name"] == "retrieval"
    assert told["lir.audit.event_id"] == result.event_id
    assert told["lir.hits"] == 3
    assert told["retrieval.documents.0.document.score"] == result[0].score
    kinds = {name: span.attributes["openinference.span.kind"] for name, span in spans.items()}
    assert (kinds["rerank"], kinds["first_stage"]) == ("RERANKER", "RETRIEVER")
    assert {kinds[name] for name in ("authorize", "memory", "record")} == {"CHAIN"}
    assert {span.attributes["gen_ai.operation.name"] for span in spans.values()} == {"retrieval"}
    assert spans["memory"].attributes["lir.status"] == "ok"


def test_tools_that_run_are_a_span_of_a_tool(index, hear):
    @tool
    def version(word: str) -> str:
        """Says a version."""
        assert trace.get_current_span().get_span_context().is_valid  # what a tool does is traced within
        return word

    heard = hear()
    calls = [{"name": "version", "args": {"word": "quetzal"}, "id": "1"}]
    graph = build_graph(index, tools=[version]).compile()
    result = graph.invoke({"query": "okapi", "tool_calls": calls}, context=RetrievalContext(WHO))["result"]
    assert result.coverage.stages["tools"].status == "ok"
    told = heard.spans["tools"].attributes
    assert (told["openinference.span.kind"], told["gen_ai.operation.name"]) == ("TOOL", "execute_tool")


def test_a_span_around_a_search_is_its_parent_and_is_current_again_afterwards(index, hear):
    heard = hear()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("around")
    before = contexts.get_current()
    with tracer.start_as_current_span("around") as around:
        index.search("sleep", principal=WHO)
        assert trace.get_current_span() is around
    assert contexts.get_current() == before
    assert heard.spans["search"].parent.span_id == around.get_span_context().span_id


async def test_concurrent_searches_keep_their_stages_apart(index, hear):
    import asyncio

    heard = hear()
    await asyncio.gather(*(index.asearch(f"okapi {n}", principal=WHO) for n in range(8)))
    finished = heard.finished
    searches = {span.context.span_id for span in finished if span.name == "lir.search"}
    assert len(searches) == 8
    by_search = {
        one: {span.name for span in finished if span.parent and span.parent.span_id == one} for one in searches
    }
    assert all(names == {f"lir.{name}" for name in RUN} for names in by_search.values())


def test_searches_of_a_batch_keep_their_stages_apart(index, hear):
    heard = hear()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("around")
    before = contexts.get_current()
    with tracer.start_as_current_span("around") as around:
        index.search_batch([f"okapi {n}" for n in range(5)], principal=WHO)
    assert contexts.get_current() == before
    searches = [span for span in heard.finished if span.name == "lir.search"]
    assert [span.parent.span_id for span in searches] == [around.get_span_context().span_id] * 5
    for one in searches:
        stages = [span.name for span in heard.finished if span.parent.span_id == one.context.span_id]
        assert sorted(stages) == sorted(f"lir.{name}" for name in RUN)
    with pytest.raises(AccessDenied):
        index.search_batch(["okapi", "sleep"])
    assert contexts.get_current() == before
    assert len([span for span in heard.finished if span.name == "lir.search"]) == 6, "nobody asked the second"


def test_milliseconds_and_counts_are_measured(index, hear):
    heard = hear()
    for _ in range(5):
        index.search("sleep", principal=WHO)
    with pytest.raises(AccessDenied):
        index.search("sleep")
    points = heard.points()
    (full,) = [one for one in points["lir.search.duration"] if dict(one.attributes) == {"outcome": "full"}]
    assert full.count == 5
    assert 0 < full.sum < 60_000
    assert tuple(full.explicit_bounds)[:4] == (1, 2, 3, 5)
    stages = {one.attributes["stage"]: one.count for one in points["lir.stage.duration"]}
    assert stages == {**dict.fromkeys(RUN, 5), "authorize": 6}
    assert heard.total("lir.refusals", kind="policy") == 1
    assert heard.total("lir.fallbacks") == 0
    refused = [span for span in heard.finished if span.name == "lir.search"][-1]
    assert refused.attributes["error.type"] == "AccessDenied"
    assert not refused.status.is_ok


def test_a_stage_that_is_missed_is_a_fallback(index, hear):
    heard = hear()

    def broken() -> None:
        raise OSError("the disk of the quetzal")

    index.memory._store.trouble = broken
    assert not index.search("sleep", principal=WHO, thread_id="t").coverage.full
    assert heard.total("lir.fallbacks", stage="memory", status="failed") == 1
    assert [dict(one.attributes) for one in heard.points()["lir.search.duration"]] == [{"outcome": "partial"}]
    assert heard.spans["memory"].attributes["lir.status"] == "failed"


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (AccessDenied("no"), "refused", "policy"),
        (Overloaded("full", retry_after_s=1.0), "refused", "overloaded"),
        (BudgetExceeded("late", stage="rerank", budget_ms=1.0), "refused", "budget"),
        (InputError("is odd", field="k"), "invalid", None),
        (RuntimeError("broken"), "failed", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_is_raised_is_counted_by_its_kind(hear, error, outcome, kind):
    heard = hear()
    with pytest.raises(type(error)), observe("search"):
        raise error
    (point,) = heard.points()["lir.search.duration"]
    assert dict(point.attributes) == {"outcome": outcome}
    refusals = {one.attributes["kind"]: one.value for one in heard.points().get("lir.refusals", ())}
    assert refusals == ({} if kind is None else {kind: 1})


def test_a_leak_that_the_second_wall_catches_is_counted(index, hear, monkeypatch):
    from lir_agents.graph.view import View, look_at

    heard = hear()
    stranger = Principal("numbat", groups=["group:other"])
    assert len(index.search("okapi", principal=stranger)) == 0
    assert heard.total("lir.leaks.caught") == 0

    def blind(rooms: Any, request: Any, scope: Any) -> Any:
        view = look_at(rooms, request, scope)
        return View(view.snapshot, view.snapshot.live)

    monkeypatch.setattr("lir_agents.graph.find.look_at", blind)  # the first wall is down
    assert len(index.search("okapi", principal=stranger)) == 0
    assert heard.total("lir.leaks.caught") == 6


def test_texts_that_are_known_are_cache_hits(index, hear):
    heard = hear()
    reranker = TextReranker(HashedEncoder())
    for _ in range(2):
        reranker.rank("okapi", ["one text", "another text"])
    assert (heard.total("lir.cache.misses"), heard.total("lir.cache.hits")) == (2, 2)


def test_a_stage_that_ends_after_its_search_is_told_and_counted_once(hear):
    heard = hear()
    with observe("search") as search:
        given_up = observe("rerank").__enter__()
        given_up.end(StageCoverage("timed_out", "the quetzal is slow", 5.0))  # by whoever waited for it
        given_up.__exit__(None, None, None)
        late = observe("memory").__enter__()
        stages = {"rerank": StageCoverage("timed_out"), "memory": StageCoverage("failed")}
        search.end(SearchResult((), "query", Coverage(stages), {}, "event"))
    late.__exit__(OSError, OSError("late"), None)
    late.end(StageCoverage("failed", "", 9.0))
    spans = heard.spans
    assert {spans[name].parent.span_id for name in ("rerank", "memory")} == {spans["search"].context.span_id}
    assert spans["rerank"].attributes["lir.status"] == "timed_out"
    assert spans["memory"].attributes["error.type"] == "OSError"
    assert heard.total("lir.fallbacks") == 2
    assert "quetzal" not in heard.everything()


def test_a_graph_of_somebody_else_is_traced_by_stages(index, hear):
    heard = hear()
    graph = build_graph(index).compile()
    graph.invoke({"query": "okapi"}, context=RetrievalContext(WHO))
    assert heard.spans.keys() == RUN
    with pytest.raises(AccessDenied):
        graph.invoke({"query": "okapi"}, context=RetrievalContext())
    assert heard.total("lir.refusals", kind="policy") == 1


# ---------------------------------------------------------------- what is not told


def exercise(index: LateInteractionIndex) -> None:
    """Everything that a query, a text, an id or a name passes through, and what fails with one in hand."""

    @tool
    def failing(word: str) -> str:
        """Fails."""
        raise ValueError(f"no {word} here")

    asked: dict[str, Any] = {"principal": WHO, "thread_id": "quetzal"}
    index.search("where is the quetzal?", **asked)
    index.search(
        "and the okapi?",
        tool_signals=[ToolSignal("kakapo", {"kakapo": "kakapo"})],
        filter={"kakapo": "kakapo"},
        **asked,
    )
    calls = [{"name": "failing", "args": {"word": "quetzal"}, "id": "1"}]
    build_graph(index, tools=[failing]).compile().invoke(
        {"query": "quetzal", "tool_calls": calls}, context=RetrievalContext(WHO, "quetzal")
    )
    for bad in ({"query": "quetzal", "k": 0}, {"query": "quetzal", "filter": {"kakapo": {"$quetzal": 1}}}):
        with pytest.raises(ValueError):
            index.search(**bad, principal=WHO)
    with pytest.raises(AccessDenied):
        index.search("quetzal", principal=None)

    def broken() -> None:
        raise OSError("quetzal of narwhal")

    index.memory._store.trouble = broken
    index.search("the quetzal", **asked)
    index.memory._store.trouble = None
    index.delete(["axolotl/1"])
    index.search("the quetzal", **asked)
    index.erase(["axolotl/2"])
    logging.getLogger("lir_agents.test").warning("It failed: %s", OSError("quetzal"))
    try:
        raise ValueError("quetzal")
    except ValueError:
        logging.getLogger("lir_agents.test").exception("It failed")


def test_no_text_id_or_name_reaches_a_span_a_metric_or_a_log(index, hear, capsys):
    heard = hear()
    exercise(index)
    told, logged = heard.everything(), capsys.readouterr().err
    assert len(heard.finished) > 30
    assert len(logged.splitlines()) >= 6
    for canary in CANARIES:
        assert canary not in told.casefold(), canary
        assert canary not in logged.casefold(), canary


def test_with_content_spans_tell_it_and_metrics_never_do(index, hear):
    heard = hear(TelemetrySettings(enabled=True, content=True))
    exercise(index)
    search = next(span for span in heard.finished if span.name == "lir.search")
    assert search.attributes["input.value"] == "where is the quetzal?"
    assert search.attributes["gen_ai.retrieval.query.text"] == "where is the quetzal?"
    assert search.attributes["retrieval.documents.0.document.id"].startswith("axolotl/")
    assert "okapi" in search.attributes["retrieval.documents.0.document.content"]
    assert json.loads(search.attributes["gen_ai.retrieval.documents"])[0]["id"].startswith("axolotl/")
    data = heard.reader.get_metrics_data()
    assert not any(canary in data.to_json().casefold() for canary in CANARIES)


def test_the_labels_of_metrics_are_a_closed_set(index, hear):
    heard = hear()
    exercise(index)
    labels = {key for points in heard.points().values() for one in points for key in one.attributes}
    assert labels <= {"stage", "status", "outcome", "kind"}
    values = {value for points in heard.points().values() for one in points for value in one.attributes.values()}
    assert values <= STAGES | {
        "ok",
        "skipped",
        "timed_out",
        "failed",
        "raised",
        "full",
        "partial",
        "refused",
        "invalid",
        "policy",
    }


# ---------------------------------------------------------------- logs


def test_a_line_of_the_log_is_json_with_the_ids_of_its_trace(index, hear, capsys):
    heard = hear()
    index.search("sleep", principal=WHO)
    assert heard.telemetry.flush()
    (line,) = [json.loads(one) for one in capsys.readouterr().err.splitlines()]
    span = heard.spans["search"]
    assert line["trace_id"] == trace.format_trace_id(span.context.trace_id)
    assert line["span_id"] == trace.format_span_id(span.context.span_id)
    assert (line["level"], line["logger"], line["message"]) == ("info", "lir_agents.search", "search")
    assert line["outcome"] == "full"
    assert line["stages"].keys() == STAGES


def test_the_formatter_serves_any_handler():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(content=True))
    logger = logging.getLogger("lir_agents.formatter")
    logger.addHandler(handler)
    logger.warning("It failed: %s", "why")
    logger.removeHandler(handler)
    assert json.loads(stream.getvalue())["message"] == "It failed: why"


# ---------------------------------------------------------------- on and off


def test_an_index_switches_it_on_by_its_settings_and_prometheus_scrapes_it(quick_path):
    settings = Settings(telemetry={"enabled": True, "traces": "off", "metrics": "prometheus", "prometheus_port": 0})
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder(), settings=settings) as index:
        telemetry = switch_on(settings.telemetry)
        try:
            index.add([Document("A text.", id="a")])
            index.search("text")
            assert telemetry.flush()
            page = urllib.request.urlopen(f"http://127.0.0.1:{telemetry.prometheus_port}/metrics").read().decode()
        finally:
            telemetry.shutdown()
    assert "lir_search_duration_milliseconds_bucket{" in page
    assert 'le="7.5"' in page
    assert 'stage="rerank"' in page
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{telemetry.prometheus_port}/metrics", timeout=2)


def test_the_settings_of_the_documentation_are_settings():
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    given = tomllib.loads(block)["telemetry"]
    assert given.keys() == TelemetrySettings.model_fields.keys()
    assert TelemetrySettings(**given).enabled


def test_a_search_that_ends_after_it_was_switched_off_leaves_no_thread(index, hear):
    heard = hear()
    index.search("sleeps", principal=WHO)
    with observe("search") as observation:
        heard.telemetry.shutdown()
        observation.end(StageCoverage("ok"))
    until = time.monotonic() + 10
    while any(thread.name == "lir-telemetry" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_is_one_for_the_process(hear):
    first = hear()
    with pytest.raises(ConfigError, match="already"):
        switch_on(TelemetrySettings(enabled=True, traces="off"))
    first.telemetry.shutdown()
    first.telemetry.shutdown()
    second = switch_on(TelemetrySettings(enabled=True, traces="off", metrics="off"))
    assert switch_on(TelemetrySettings(enabled=True, traces="off", metrics="off")) is second
    second.shutdown()


def test_a_taken_port_is_named(hear):
    taken = switch_on(TelemetrySettings(enabled=True, traces="off", metrics="prometheus", prometheus_port=0))
    taken.shutdown()
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        asked = TelemetrySettings(
            enabled=True, traces="off", metrics="prometheus", prometheus_port=other.getsockname()[1]
        )
        with pytest.raises(ConfigError, match="use"):
            switch_on(asked)


def test_nothing_of_it_is_imported_before_it_is_asked_for():
    code = (
        "import sys, lir_agents, lir_agents.telemetry, lir_agents.config\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_pip_line_is_named(monkeypatch):
    from lir_agents import MissingExtra

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.prometheus", None)
    with pytest.raises(MissingExtra, match=r"lir-agents\[telemetry\]"):
        switch_on(TelemetrySettings(enabled=True, traces="off", metrics="prometheus", prometheus_port=0))
