"""The forward pass in OpenVINO: what a processor runs fastest, on its own threads, without the interpreter.

A graph that takes any shape spends milliseconds on preparing itself whenever the shape differs from the last one,
as much as an 18-token query costs. So short texts, questions, have graphs of fixed shapes, where several go into
one row (:mod:`~lir_agents.encoding.openvino_short`); long texts and batches of documents get a graph of any shape,
a row for each, and all threads together. OpenVINO's idle threads sleep; those of OpenMP spin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.model import States, pad
from lir_agents.encoding.openvino_graphs import AnyShape, Model, read
from lir_agents.encoding.openvino_short import ShortRows
from lir_agents.threads import available_processors

__all__ = ["OpenVinoForward"]

_STEP = 16
"""Longer rows are padded to a multiple of this: fewer shapes to prepare for, and the tiles of AMX are as high."""
_MANY_ROWS = 32
"""A batch of more texts than this goes into the graph of any shape, short or not."""
_MOST_WASTE = 1.25


class OpenVinoForward:
    """A `Forward` over an OpenVINO model: what :func:`~lir_agents.encoding.openvino_export.convert` makes.

    Safe to call from several threads; the interpreter is free while it runs.

    Args:
        source: The model: the path of its `.xml`, or the model in memory.
        bfloat16: Whether to multiply in bfloat16; float32 otherwise.
        hidden_dim: Width of the last hidden states.
        max_tokens: Longest row there will be; padding does not pass it.
        pad_id: Token id that padding has.
        threads: Most threads of one run; None: the processors that this process may use.
        first_position: See :class:`~lir_agents.encoding.openvino_graphs.Model`.
        shared: Whether callers that meet may share a run: where :meth:`shareable` found that they cannot tell.

    Raises:
        RuntimeError: OpenVINO cannot read the model.
    """

    def __init__(
        self,
        source: Path | Any,
        *,
        bfloat16: bool,
        hidden_dim: int,
        max_tokens: int,
        pad_id: int,
        threads: int | None = None,
        first_position: int | None = None,
        shared: bool = False,
    ) -> None:
        self._model = Model(read(source), bfloat16, pad_id, threads or available_processors(), first_position)
        self._hidden_dim = hidden_dim
        self._max_tokens = max_tokens
        self._short = ShortRows(self._model, max_tokens, shared=shared)
        self._long: AnyShape | None = None
        self._compiling = Lock()

    def __call__(self, rows: Sequence[NDArray[np.int64]]) -> States:
        hidden = np.zeros((len(rows), max(map(len, rows)), self._hidden_dim), np.float32)
        short = [] if len(rows) > _MANY_ROWS else self._short.groups(rows)
        held = {i for group in short for i in group}
        long = [i for i in range(len(rows)) if i not in held]
        runs = [(group, self._start([rows[i] for i in group])) for group in _alike(rows, long)]
        for group in short:
            for i, found in zip(group, self._short([rows[i] for i in group]), strict=True):
                hidden[i, : len(found)] = found
        for group, request in runs:
            found = self._any_shape().finish(request)[:, : hidden.shape[1]]
            hidden[group, : found.shape[1]] = found
        return States(hidden)

    def shareable(self, rows: Sequence[NDArray[np.int64]]) -> bool:
        """Whether short texts have the same hidden states, to the bit, in runs shared with those of others."""
        return self._short.shareable(rows)

    def steady(self, rows: Sequence[NDArray[np.int64]]) -> bool:
        """Whether, beyond that, texts have them in a large batch as well, which the graph of any shape runs."""
        together = self._any_shape().finish(self._start(rows))
        return all(np.array_equal(together[i, : len(row)], self([row]).hidden[0]) for i, row in enumerate(rows))

    def _start(self, rows: Sequence[NDArray[np.int64]]) -> Any:
        ids, mask = pad(rows, self._model.pad_id)
        longest = ids.shape[1]
        wide = max(longest, min(-(-longest // _STEP) * _STEP, self._max_tokens))
        if wide > longest:
            room = ((0, 0), (0, wide - longest))
            ids, mask = np.pad(ids, room, constant_values=self._model.pad_id), np.pad(mask, room)
        return self._any_shape().start(ids, mask)

    def _any_shape(self) -> AnyShape:
        if self._long is None:
            with self._compiling:
                self._long = self._long or self._model.any_shape()
        return self._long


def _alike(rows: Sequence[NDArray[np.int64]], which: Sequence[int]) -> Iterator[list[int]]:
    """Rows that run together: of lengths so alike that padding costs little."""
    group: list[int] = []
    cells = 0
    for i in sorted(which, key=lambda i: len(rows[i])):
        if group and len(rows[i]) * (len(group) + 1) > _MOST_WASTE * (cells + len(rows[i])):
            yield group
            group, cells = [], 0
        group.append(i)
        cells += len(rows[i])
    if group:
        yield group
