"""What goes into a forward pass, row by row, and which of its output rows count for what."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.base import QueryText
from lir_agents.encoding.tokenizer import TextTokenizer

__all__ = ["Input", "InputBuilder", "length_sorted_batches"]

_BATCH_TOKENS = 4096
_BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Input:
    """One text as the model reads it.

    Attributes:
        ids: int64 [t], special tokens included.
        spans: int32 [t, 2], character offsets in the text; (0, 0) for special tokens.
        keep: bool [t], which rows go into the token matrix; at least one.
        pool: bool [t], which rows the pooled vector is made from; at least one.
    """

    ids: NDArray[np.int64]
    spans: NDArray[np.int32]
    keep: NDArray[np.bool_]
    pool: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class InputBuilder:
    """Puts special tokens, prompts and context around texts, and truncates what does not fit.

    Args:
        tokenizer: Shared; never changed.
        max_tokens: Longest input, special tokens included.
        keep_special: Whether special tokens are part of the token matrix.
        drop_punctuation: Whether document tokens without a letter, digit or symbol leave the token matrix.
        query_prompt: Put before a query; read by the model, not part of the token matrix.
        document_prompt: Put before a document; likewise.
    """

    tokenizer: TextTokenizer
    max_tokens: int
    keep_special: bool = False
    drop_punctuation: bool = False
    query_prompt: str = ""
    document_prompt: str = ""

    def documents(self, texts: Sequence[str]) -> list[Input]:
        """One input per document, cut off at the end."""
        return self._plain(texts, self.document_prompt, drop=self.drop_punctuation)

    def queries(self, queries: Sequence[QueryText]) -> list[Input]:
        """Each query alone, or `[CLS] context [SEP] query [SEP]` where only the query's own rows count.

        The context gives way: it gets the room the query leaves, and loses its oldest part first. Segment ids
        stay 0 throughout, as sentence-transformers models are trained. A text that several of them ask, with and
        without context, is read once.
        """
        alone = {text: self._plain([text], self.query_prompt)[0] for text in {query.text for query in queries}}
        return [self._in_context(alone[query.text], query.context) for query in queries]

    def _in_context(self, alone: Input, context: str) -> Input:
        room = self.max_tokens - len(alone.ids) - len(self.tokenizer.separator)
        before = self.tokenizer.tail(context, room) if context.strip() else np.empty(0, np.int64)
        own = (alone.spans[:, 1] > alone.spans[:, 0]) & alone.keep
        if not len(before) or not own.any():
            return alone
        middle = np.concatenate([before, np.array(self.tokenizer.separator, np.int64)])
        nowhere, none = np.zeros((len(middle), 2), np.int32), np.zeros(len(middle), bool)
        start = len(self.tokenizer.prefix)

        def around(values: NDArray[Any], inner: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([values[:start], inner, values[start:]])

        return Input(
            around(alone.ids, middle), around(alone.spans, nowhere), around(alone.keep, none), around(own, none)
        )

    def _plain(self, texts: Sequence[str], prompt: str, *, drop: bool = False) -> list[Input]:
        room = max(1, self.max_tokens - self.tokenizer.overhead)
        heads = self.tokenizer.heads([prompt + text for text in texts], room)
        before, after = (len(part) for part in (self.tokenizer.prefix, self.tokenizer.suffix))
        inputs = []
        for text, head in zip(texts, heads, strict=True):
            spans = np.zeros((before + len(head.spans) + after, 2), np.int32)
            spans[before : len(spans) - after] = np.maximum(head.spans - len(prompt), 0)
            own = spans[:, 1] > spans[:, 0]
            keep = own & ~_punctuation(text, spans) if drop else own
            if self.keep_special:
                keep = keep | _ends(len(spans), before, after)
            if not keep.any():  # nothing but white space or punctuation: the whole input stands for the text
                keep = own if own.any() else np.ones(len(spans), bool)
            ids = np.concatenate([self.tokenizer.prefix, head.ids, self.tokenizer.suffix]).astype(np.int64)
            inputs.append(Input(ids, spans, keep, np.ones(len(ids), bool)))
        return inputs


def _ends(length: int, before: int, after: int) -> NDArray[np.bool_]:
    ends = np.zeros(length, bool)
    ends[:before] = True
    ends[length - after :] = True
    return ends


def _punctuation(text: str, spans: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which tokens stand for Unicode punctuation only, bool [t]."""
    marks = [
        end > start and all(unicodedata.category(letter).startswith("P") for letter in text[start:end])
        for start, end in spans.tolist()
    ]
    return np.array(marks, bool)


def length_sorted_batches(lengths: Sequence[int], *, max_tokens: int = _BATCH_TOKENS) -> Iterator[list[int]]:
    """Groups inputs of similar length, so that little of a batch is padding.

    Args:
        lengths: Tokens per input.
        max_tokens: Most cells of a batch, rows × longest row; a longer single input is a batch of its own.

    Yields:
        Indices into `lengths`, shortest inputs first; every index exactly once.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and ((len(batch) + 1) * lengths[i] > max_tokens or len(batch) >= _BATCH_ROWS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
