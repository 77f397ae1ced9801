"""The forward pass in OpenVINO: what a processor runs fastest, on its own threads, without the interpreter.

Two facts measured on all-MiniLM-L6-v2 shape this file (docs/decisions/0004-query-encoder.md). A graph that takes
any shape spends 4 ms on preparing itself whenever the shape differs from the last one, twice what an 18-token
query costs: so short rows run one by one in graphs of a fixed length. And one thread is enough for them, because
reading the weights is what takes the time: so several short rows run at once, a thread each, while long rows and
batches of documents get all threads together. Two short rows, a turn alone and in the light of its conversation,
read the weights once between them, with all threads. OpenVINO's idle threads sleep; those of OpenMP spin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.model import States, pad

__all__ = ["OpenVinoForward", "openvino", "processor"]

_SHAPES = {1: (32, 64), 2: (48, 80)}
"""Rows to the lengths that there are graphs for; each is compiled when it is first wanted."""
_STEP = 16
"""Longer rows are padded to a multiple of this: fewer shapes to prepare for, and the tiles of AMX are as high."""
_FEW_ROWS = 4
"""A batch of more rows than this is worth one graph run, short or not."""
_MOST_WASTE = 1.25
_MOST_STREAMS = 8


@cache
def openvino() -> Any:
    """The library, imported without its telemetry.

    `import openvino` writes a client id into the home directory and reports to Google Analytics, unless the
    package that does so cannot be imported. A process that imported OpenVINO before keeps what it has.

    Raises:
        ImportError: It is not installed, or does not run here.
    """
    reporter = "openvino_telemetry"
    hidden = reporter not in sys.modules
    if hidden:
        sys.modules[reporter] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        import openvino as library
        import openvino.tools.ovc  # its converter reports, too
    finally:
        if hidden:
            del sys.modules[reporter]
    return library


@cache
def _core() -> Any:
    return openvino().Core()


def processor() -> str:
    """What the machine computes with, as OpenVINO names it."""
    return str(_core().get_property("CPU", "FULL_DEVICE_NAME"))


@dataclass(slots=True)
class _Lane:
    """A compiled graph and its idle infer requests; a request serves one run at a time."""

    compiled: Any
    idle: list[Any] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def start(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Any:
        with self.lock:
            request = self.idle.pop() if self.idle else None
        request = request or self.compiled.create_infer_request()
        request.start_async({"input_ids": ids, "attention_mask": mask}, share_inputs=False)
        return request

    def finish(self, request: Any) -> NDArray[np.float32]:
        """Waits for a run and copies its hidden states, float32 [rows, longest, hidden_dim]."""
        request.wait()
        hidden = np.array(request.get_output_tensor(0).data, np.float32)
        with self.lock:
            self.idle.append(request)
        return hidden


class OpenVinoForward:
    """A `Forward` over an OpenVINO model with inputs `input_ids` and `attention_mask`.

    Safe to call from several threads; the interpreter is free while it runs.

    Args:
        source: The model: the path of its `.xml`, or the model in memory.
        bfloat16: Whether to multiply in bfloat16; float32 otherwise.
        hidden_dim: Width of the last hidden states.
        max_tokens: Longest row there will be; padding does not pass it.
        pad_id: Token id that padding has.
        threads: Most threads of one run; None: the processors that this process may use.
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
    ) -> None:
        self._source = source
        self._precision = "bf16" if bfloat16 else "f32"
        self._hidden_dim = hidden_dim
        self._max_tokens = max_tokens
        self._pad_id = pad_id
        self._threads = threads or available_processors()
        self._lanes: dict[tuple[int, int], _Lane] = {}
        self._compiling = Lock()

    def __call__(self, rows: Sequence[NDArray[np.int64]]) -> States:
        longest = max(len(row) for row in rows)
        hidden = np.zeros((len(rows), longest, self._hidden_dim), np.float32)
        runs = [(members, *self._start(rows, members, length)) for members, length in self._plan(rows)]
        for members, lane, request in runs:
            found = lane.finish(request)[:, :longest]
            hidden[members, : found.shape[1]] = found
        return States(hidden)

    def _plan(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[tuple[list[int], int]]:
        """Which rows run together, and padded to what length; 0 or less means a graph of any shape."""
        long = list(range(len(rows)))
        if len(rows) == 2 and (length := self._fixed(2, max(map(len, rows)))):
            yield long, length
            return
        if len(rows) <= _FEW_ROWS:
            fixed = [self._fixed(1, len(row)) for row in rows]
            yield from (([i], length) for i, length in enumerate(fixed) if length)
            long = [i for i in long if not fixed[i]]
        group: list[int] = []
        cells = 0
        for i in sorted(long, key=lambda i: len(rows[i])):
            if group and len(rows[i]) * (len(group) + 1) > _MOST_WASTE * (cells + len(rows[i])):
                yield group, 0
                group, cells = [], 0
            group.append(i)
            cells += len(rows[i])
        if group:
            yield group, 0

    def _fixed(self, rows: int, longest: int) -> int:
        """The length of the graph for so many rows, 0 if there is none."""
        return next((length for length in _SHAPES[rows] if longest <= length <= self._max_tokens), 0)

    def _start(self, rows: Sequence[NDArray[np.int64]], members: list[int], length: int) -> tuple[_Lane, Any]:
        ids, mask = pad([rows[i] for i in members], self._pad_id)
        longest = ids.shape[1]
        wide = length or max(longest, min(-(-longest // _STEP) * _STEP, self._max_tokens))
        if wide > longest:
            room = ((0, 0), (0, wide - longest))
            ids, mask = np.pad(ids, room, constant_values=self._pad_id), np.pad(mask, room)
        shape = (len(members), length) if length else (0, 0)
        lane = self._lanes.get(shape) or self._compile(shape)
        return lane, lane.start(ids, mask)

    def _compile(self, shape: tuple[int, int]) -> _Lane:
        with self._compiling:
            if shape not in self._lanes:
                model = _core().read_model(self._source) if isinstance(self._source, Path) else self._source.clone()
                if shape[0]:
                    model.reshape({port: list(shape) for port in model.inputs})
                self._lanes[shape] = _Lane(_core().compile_model(model, "CPU", self._settings(shape)))
            return self._lanes[shape]

    def _settings(self, shape: tuple[int, int]) -> dict[str, Any]:
        one_by_one = shape[0] == 1
        streams = min(self._threads, _MOST_STREAMS) if one_by_one else 1
        return {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": streams if one_by_one else self._threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # pinned threads of several processes end up on the same processors
        }


def available_processors() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
