"""What an encoder gives is held to the port, whoever wrote it; what it gave is told as the encoder's fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lir_agents import Document, IntegrityError, LateInteractionIndex
from lir_agents.arrays import Encoding
from lir_agents.encoding.asking import encoded_documents, encoded_queries
from lir_agents.encoding.base import QueryText
from lir_agents.graph.texts import TextReranker
from tests.hashed_encoder import HashedEncoder

Change = Callable[[Encoding], Any]

NO_VECTORS: dict[str, Change] = {
    "NaN tokens": lambda one: replace(one, tokens=np.full_like(one.tokens, np.nan)),
    "NaN pooled": lambda one: replace(one, pooled=np.full_like(one.pooled, np.nan)),
    "infinite pooled": lambda one: replace(one, pooled=np.full_like(one.pooled, np.inf)),
    "zero pooled": lambda one: replace(one, pooled=np.zeros_like(one.pooled)),
    "long pooled": lambda one: replace(one, pooled=one.pooled * np.float32(1e30)),
    "narrow pooled": lambda one: replace(one, pooled=one.pooled[:5]),
    "pooled of two axes": lambda one: replace(one, pooled=one.pooled[None]),
    "no pooled": lambda one: replace(one, pooled=None),
    "narrow tokens": lambda one: replace(one, tokens=one.tokens[:, :5]),
    "tokens of one axis": lambda one: replace(one, tokens=one.tokens[0]),
    "ragged tokens": lambda one: replace(one, tokens=[[1.0], [1.0, 2.0]]),
    "no tokens": lambda one: replace(one, tokens=one.tokens[:0], spans=one.spans[:0]),
    "other spans": lambda one: replace(one, spans=one.spans[:0]),
    "nothing": lambda one: None,
    "words": lambda one: "vector",
}


class Odd(HashedEncoder):
    """An encoder that can be told to misbehave."""

    change: Change | None = None

    def encode_documents(self, texts: Any) -> Any:
        found = super().encode_documents(texts)
        return found if self.change is None else ((at, self.change(one)) for at, one in found)

    def encode_queries(self, queries: Any) -> Any:
        found = super().encode_queries(queries)
        return found if self.change is None else [self.change(one) for one in found]


@pytest.mark.parametrize("wrong", NO_VECTORS)
def test_what_is_no_vector_is_the_encoders_error_wherever_it_is_asked(wrong: str, tmp_path: Any) -> None:
    encoder = Odd()
    with LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder) as index:
        index.add([Document(id="good", text="the canteen is open")])
        whole = index.search("canteen")
        encoder.change = NO_VECTORS[wrong]
        with pytest.raises(IntegrityError, match="encoder gave"):
            index.add([Document(id="bad", text="the garage is closed")])
        result = index.search("canteen")
        assert [hit.document_id for hit in result] == ["good"]
        assert "encoder gave" in result.coverage.caveat
        with pytest.raises(IntegrityError, match="encoder gave"):
            whole[0].explain()
        with pytest.raises(IntegrityError, match="encoder gave"):
            TextReranker(encoder).rank("canteen", ["soup"])
        encoder.change = None
        assert index.search("garage").coverage.full
        assert index.verify() == []
        assert index.add([Document(id="bad", text="the garage is closed")]).added == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16, object])
def test_other_numbers_than_float32_are_taken_as_such(dtype: Any) -> None:
    plain, encoder = HashedEncoder(), Odd()
    encoder.change = lambda one: replace(one, pooled=one.pooled.astype(dtype), tokens=one.tokens.tolist())
    (found,) = encoded_queries(encoder, [QueryText("soup")])
    (wanted,) = plain.encode_queries([QueryText("soup")])
    assert (found.pooled.dtype, found.tokens.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(found.pooled, wanted.pooled, atol=1e-3)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


def test_a_sound_encoding_is_handed_on_as_it_is() -> None:
    class Remembering(HashedEncoder):
        def encode_queries(self, queries: Any) -> list[Encoding]:
            self.gave = super().encode_queries(queries)
            return self.gave

    encoder = Remembering()
    assert encoded_queries(encoder, [QueryText("soup")])[0] is encoder.gave[0]


@pytest.mark.parametrize("answer", [None, 7, [], iter(()), "soup"], ids=repr)
def test_an_encoding_per_query_is_wanted(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HashedEncoder()
    monkeypatch.setattr(encoder, "encode_queries", lambda queries: answer)
    with pytest.raises(IntegrityError):
        encoded_queries(encoder, [QueryText("soup")])


ONE = HashedEncoder().encode_queries([QueryText("soup")])[0]


@pytest.mark.parametrize(
    "answer",
    [None, [], [(0, ONE)], [(0, ONE), (0, ONE)], [(0, ONE), (2, ONE)], [(0, ONE), (-1, ONE)], [ONE], [("0", ONE)]],
)
def test_an_encoding_per_text_is_wanted(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HashedEncoder()
    monkeypatch.setattr(encoder, "encode_documents", lambda texts: answer)
    with pytest.raises(IntegrityError):
        list(encoded_documents(encoder, ["soup", "salad"]))


def test_an_encoder_left_early_is_closed_there_and_then() -> None:
    ended = []

    class Watched(HashedEncoder):
        def encode_documents(self, texts: Any) -> Iterator[tuple[int, Encoding]]:
            try:
                yield from super().encode_documents(texts)
            finally:
                ended.append(True)

    items = encoded_documents(Watched(), ["soup", "salad"])
    next(items)
    items.close()
    assert ended == [True]
