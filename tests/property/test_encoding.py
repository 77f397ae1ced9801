"""Invariants of tokenising, truncating and batching, each against the plainest way to say the same."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lir_agents.encoding.base import QueryText
from lir_agents.encoding.bundled import bundled_folder
from lir_agents.encoding.inputs import InputBuilder, length_sorted_batches
from lir_agents.encoding.model import pad
from lir_agents.encoding.tokenizer import TextTokenizer, mend
from lir_agents.encoding.vectors import unit

WORDS = st.sampled_from(
    ["late", "interaction", "naïve", "東京", "🙂", "don't", "C++", "\u200b", "\ud800", "x" * 120]
)
SPACES = st.sampled_from([" ", "\n", "  ", "\t", "", "\u00a0"])
PROSE = st.lists(st.tuples(WORDS, SPACES), max_size=60).map(lambda parts: "".join(a + b for a, b in parts))
TEXT = st.one_of(st.text(max_size=80), PROSE)


@lru_cache(maxsize=1)
def tokenizer() -> TextTokenizer:
    return TextTokenizer(bundled_folder() / "tokenizer.json")


@lru_cache(maxsize=1)
def rust() -> Tokenizer:
    plain = Tokenizer.from_file(str(bundled_folder() / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    return plain


def whole(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """The oracle: the Rust tokenizer over the whole text at once."""
    encoded = rust().encode(mend(text), add_special_tokens=False)
    return encoded.ids, encoded.offsets


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(1, 40))
def test_cutting_into_blocks_changes_no_span(text: str, block_chars: int) -> None:
    assert tokenizer().spans(text, block_chars=block_chars) == whole(text)[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(1, 12))
def test_a_head_is_the_beginning_of_the_whole(texts: list[str], limit: int) -> None:
    for text, head in zip(texts, tokenizer().heads(texts, limit), strict=True):
        ids, spans = whole(text)
        assert head.ids.tolist() == ids[:limit]
        assert head.spans.tolist() == [list(span) for span in spans[:limit]]


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(0, 12))
def test_a_tail_is_the_end_of_the_whole(text: str, limit: int) -> None:
    assert tokenizer().tail(text, limit).tolist() == whole(text)[0][-limit:] * (limit > 0)


@given(TEXT)
def test_mending_keeps_offsets_and_makes_utf8(text: str) -> None:
    mended = mend(text)
    assert len(mended) == len(text)
    assert mended.encode().decode() == mended


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(8, 32), st.booleans())
def test_a_query_keeps_its_rows_whatever_its_context(text: str, context: str, room: int, special: bool) -> None:
    builder = InputBuilder(tokenizer(), max_tokens=room, keep_special=special)
    alone, joint = builder.queries([QueryText(text), QueryText(text, context=context)])
    assert len(joint.ids) <= room
    assert joint.ids[joint.keep].tolist() == alone.ids[alone.keep].tolist()
    assert joint.spans[joint.keep].tolist() == alone.spans[alone.keep].tolist()
    assert joint.keep.any()
    assert joint.pool.any()


@settings(max_examples=60, deadline=None)
@given(TEXT, st.booleans(), st.booleans())
def test_every_document_keeps_a_row_and_every_span_stays_inside(text: str, special: bool, drop: bool) -> None:
    builder = InputBuilder(
        tokenizer(), max_tokens=16, keep_special=special, drop_punctuation=drop, document_prompt="passage: "
    )
    (document,) = builder.documents([text])
    assert document.keep.any()
    assert len(document.ids) == len(document.spans) == len(document.keep) <= 16
    assert (document.spans >= 0).all()
    assert (document.spans <= len(text)).all()


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 2000))
def test_batches_are_a_partition_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_sorted_batches(lengths, max_tokens=budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_padding_is_masked_and_everything_else_is_not(rows: list[list[int]]) -> None:
    ids, mask = pad([np.array(row, np.int64) for row in rows], pad_id=0)
    assert [line[on == 1].tolist() for line, on in zip(ids, mask, strict=True)] == rows
    assert (ids[mask == 0] == 0).all()


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1, max_size=9))
def test_unit_vectors_have_length_one_or_zero(rows: list[list[float]]) -> None:
    norms = np.linalg.norm(unit(np.array(rows, np.float32)), axis=1)
    assert all(
        abs(norm - 1) < 1e-4 or (norm < 1 - 1e-4 and np.linalg.norm(row) < 1e-9)
        for norm, row in zip(norms, rows, strict=True)
    )
