"""Many callers of one encoder: what each gets is, to the bit, what it would get alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.arrays import Encoding
from lir_agents.config import EncoderSettings
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
from lir_agents.encoding.transformer import TransformerEncoder

if find_spec("openvino") is None:  # importorskip would import it, and its telemetry with it: 3 s a conversion
    pytest.skip("the extra `openvino` is not installed", allow_module_level=True)

from lir_agents.encoding.openvino_forward import OpenVinoForward
from lir_agents.encoding.openvino_graphs import OneRow, cells_of
from lir_agents.encoding.openvino_short import ShortRows

WORDS = [
    "how",
    "many",
    "days",
    "of",
    "paid",
    "leave",
    "do",
    "people",
    "have,",
    "when",
    "who",
    "said",
    "so",
    "1648?",
]
Asked = list[QueryText]


def text(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def some(rng: np.random.Generator, count: int) -> list[Asked]:
    """Single questions, short and long, and turns with their context, as searches ask them."""
    asked: list[Asked] = []
    for i in range(count):
        turn = QueryText(text(rng, int(rng.integers(0, 26 if i % 5 else 60))))
        asked.append([turn] if i % 3 else [turn, QueryText(turn.text, text(rng, int(rng.integers(1, 20))))])
    return asked


def alike(one: Sequence[Encoding], other: Sequence[Encoding]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.tokens, b.tokens) and np.array_equal(a.pooled, b.pooled)
        for a, b in zip(one, other, strict=True)
    )


def short_rows(encoder: TransformerEncoder) -> ShortRows:
    forward = encoder._run()
    assert isinstance(forward, OpenVinoForward)
    return forward._short


def opened(precision: str | None = None) -> TransformerEncoder:
    found = open_encoder(
        None,
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        settings=EncoderSettings(backend="openvino", threads=2),
    )
    assert isinstance(found, TransformerEncoder)
    return found


def met(encoder: TransformerEncoder, threads: ThreadPoolExecutor) -> None:
    """Callers have met: every graph that they may share is there."""
    rows, end = short_rows(encoder), time.monotonic() + 60
    wanted = {(cells, 2) for cells in rows._sizes}
    calls = [[QueryText("how " * words)] for words in (3, 40, 70, 100)]
    while not wanted <= rows._graphs.keys():
        assert time.monotonic() < end
        for call in calls:
            list(threads.map(encoder.encode_queries, [call] * 16))


@pytest.fixture(scope="module", params=[None, "float32"])
def encoder(request: pytest.FixtureRequest) -> TransformerEncoder:
    found = opened(request.param)
    short_rows(found)  # the weights, and on a new machine the trial of what it does, are there
    return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls went into each run."""
    seen: list[int] = []
    run = OneRow.__call__

    def watched(self: OneRow, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.append(len(rows))
        return run(self, rows)

    monkeypatch.setattr(OneRow, "__call__", watched)
    return seen


def test_eight_threads_get_what_one_gets(
    encoder: TransformerEncoder, threads: ThreadPoolExecutor, sizes: list[int]
) -> None:
    asked = some(np.random.default_rng(7), 90 if encoder._precision == "float32" else 240)
    alone = [encoder.encode_queries(one) for one in asked]
    assert max(sizes) == 2  # a turn and its context
    met(encoder, threads)
    sizes.clear()
    before = threading.active_count()
    assert all(map(alike, threads.map(encoder.encode_queries, asked), alone))
    assert sum(size > 2 for size in sizes) > 10, "they never met"
    assert threading.active_count() == before
    assert short_rows(encoder)._line._busy == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 24), callers=st.integers(2, 8))
def test_company_changes_no_bit(encoder: TransformerEncoder, seed: int, count: int, callers: int) -> None:
    asked = some(np.random.default_rng(seed), count)
    with ThreadPoolExecutor(callers) as pool:
        together = list(pool.map(encoder.encode_queries, asked))
    assert all(map(alike, together, [encoder.encode_queries(one) for one in asked]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40))
def test_several_questions_of_one_caller_get_what_each_gets_alone(
    encoder: TransformerEncoder, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    asked = [QueryText(text(rng, int(rng.integers(1, 60)))) for _ in range(count)]
    alone = [encoding for one in asked for encoding in encoder.encode_queries([one])]
    assert alike(encoder.encode_queries(asked), alone)


def test_questions_of_one_caller_go_into_as_few_rows_as_hold_them(
    encoder: TransformerEncoder, sizes: list[int]
) -> None:
    encoder.encode_queries([QueryText(f"question {i}") for i in range(11)])
    assert sizes == [8, 3]
    sizes.clear()
    encoder.encode_queries([QueryText("how " * words) for words in (40, 3, 70, 5)])  # a text of 70 goes elsewhere
    assert sizes == [3]


def test_a_text_has_the_same_bits_wherever_it_lies_in_a_row(encoder: TransformerEncoder) -> None:
    rng, graph = np.random.default_rng(3), short_rows(encoder)._compiled((128, 1))
    rows = [one.ids for one in encoder._inputs().queries([QueryText(text(rng, n)) for n in (2, 9, 18, 33, 50)])]
    alone = [graph([row])[0] for row in rows]
    for _ in range(20):
        order: list[int] = []
        for i in rng.permutation(len(rows)):
            if sum(cells_of(rows[j]) for j in [*order, i]) <= 128:
                order.append(int(i))
        found = graph([rows[i] for i in order])
        assert all(np.array_equal(one, alone[i]) for i, one in zip(order, found, strict=True)), order


def test_the_error_of_one_is_not_the_others(
    encoder: TransformerEncoder, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [[QueryText(text(np.random.default_rng(i), 3 + i % 15))] for i in range(64)]
    alone = [encoder.encode_queries(one) for one in asked]
    met(encoder, threads)
    bad = {5, 6, 30, 63}
    spoilt = [encoder._inputs().queries([asked[i][0]])[0].ids.tolist() for i in bad]
    run = OneRow.__call__

    def breaking(self: OneRow, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        if any(row.tolist() in spoilt for row in rows):
            raise RuntimeError("a kernel failed")
        return run(self, rows)

    monkeypatch.setattr(OneRow, "__call__", breaking)

    def encode(i: int) -> list[Encoding] | None:
        try:
            return encoder.encode_queries(asked[i])
        except RuntimeError:
            return None

    found = list(threads.map(encode, range(64)))
    assert {i for i, one in enumerate(found) if one is None} == bad
    assert all(alike(one, alone[i]) for i, one in enumerate(found) if one is not None)


def test_a_graph_that_cannot_be_had_costs_company_not_answers(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = opened()
    rows, asked = short_rows(encoder), [[QueryText(f"question {i}")] for i in range(64)]
    alone = [encoder.encode_queries(one) for one in asked]
    make = type(rows._model).one_row

    def failing(model: object, cells: int, lanes: int) -> OneRow:
        if lanes > 1:
            raise RuntimeError("no memory for it")
        return make(model, cells, lanes)  # type: ignore[arg-type]

    monkeypatch.setattr(type(rows._model), "one_row", failing)
    assert all(map(alike, threads.map(encoder.encode_queries, asked), alone))
    for thread in threading.enumerate():
        if thread.name == "lir-compile":
            thread.join(20)
    assert "take turns" in caplog.text
    assert {lanes for *_, lanes in rows._graphs} == {1}


@pytest.mark.parametrize(("told", "lanes"), [("by company", {1, 2}), ("by company and threads", {1})])
def test_where_company_would_change_a_bit_nobody_has_any(
    told: str,
    lanes: set[int],
    threads: ThreadPoolExecutor,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A processor whose sums depend on where a text lies."""
    monkeypatch.setenv("LIR_CACHE_DIR", str(tmp_path_factory.mktemp("unsteady")))
    with monkeypatch.context() as patch:
        run = OneRow.__call__
        patch.setattr(OneRow, "__call__", _unsteady(run, threads_too="threads" in told))
        encoder = opened()
        short_rows(encoder)
    asked = [[QueryText(f"question {i}")] for i in range(64)]
    sizes.clear()
    alone = [encoder.encode_queries(one) for one in asked]
    assert all(map(alike, threads.map(encoder.encode_queries, asked), alone))
    assert set(sizes) == {1}
    assert {used for _, used in short_rows(encoder)._graphs} <= lanes
    assert encoder.steady is ("threads" not in told)


def _unsteady(run: Callable[..., list[np.ndarray]], *, threads_too: bool) -> Callable[..., list[np.ndarray]]:
    def other(self: OneRow, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = run(self, rows)
        return (
            [np.nextafter(one, np.float32(2)) for one in found]
            if len(rows) > 1 or (threads_too and not self._here)
            else found
        )

    return other
