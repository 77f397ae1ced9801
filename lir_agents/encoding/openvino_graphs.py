"""OpenVINO's graphs: the library without its telemetry, graphs of any shape, and graphs of one row.

A row of a graph may hold several texts side by side, each in *cells* of its own, a multiple of `SLOT`: positions
begin anew with each text, and the attention mask keeps them apart. Then the weights are read once for all of them,
and there is less padding than in rows as long as the longest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SLOT", "AnyShape", "Model", "OneRow", "cells_of", "openvino", "processor", "read"]

SLOT: Final = 16
"""Texts begin at multiples of this: as many float32 as the widest registers hold, so that sums over a text's tokens
are taken in the same order wherever it lies. At any place, a few in a hundred texts had other last bits."""


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


def read(source: Path | Any) -> Any:
    """The model of an `.xml` file, or in memory already.

    Raises:
        RuntimeError: The file is none that this version reads.
    """
    return _core().read_model(source) if isinstance(source, Path) else source


def cells_of(row: NDArray[np.int64]) -> int:
    """Cells of a row of a graph that a text takes."""
    return -(-len(row) // SLOT) * SLOT


@dataclass(frozen=True, slots=True)
class Model:
    """What graphs are made of.

    Attributes:
        source: The model, read once: its weights are mapped, and graphs share what they do not lay out anew.
        bfloat16: Whether to multiply in bfloat16; float32 otherwise.
        pad_id: Token id that padding has.
        threads: Most threads of one run.
        first_position: The position of a text's first token: 0; or p > 0, where p - 1 is both the id of padding and
            the position that this token has wherever it stands, uncounted. None: the model counts by itself, and a
            row holds one text only.
    """

    source: Any
    bfloat16: bool
    pad_id: int
    threads: int
    first_position: int | None

    @property
    def placed(self) -> bool:
        """Whether several texts go into one row."""
        return self.first_position is not None

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of tokens, int64 [..., t], where the model is told them."""
        first = self.first_position or 0
        if not first:
            return np.broadcast_to(np.arange(ids.shape[-1]), ids.shape).copy()
        counted = (ids != first - 1).astype(np.int64)
        places: NDArray[np.int64] = np.cumsum(counted, axis=-1) * counted + (first - 1)
        return places

    def any_shape(self) -> AnyShape:
        """A graph for rows of any length, with all threads."""
        return AnyShape(self._compile({}, self.threads), self)

    def one_row(self, cells: int, lanes: int) -> OneRow:
        """A graph of one row of so many cells. It holds its weights for itself, laid out for that shape.

        Args:
            cells: At least one.
            lanes: 1: one run at a time, with all threads. More: so many at once, with one thread each.
        """
        threads = self.threads if lanes == 1 else lanes
        shapes = {"input_ids": [1, cells], "attention_mask": [1, cells]}
        if self.placed:
            shapes |= {"position_ids": [1, cells], "attention_mask": [1, 1, cells, cells]}
        return OneRow(self._compile(shapes, threads, lanes), self, cells, lanes)

    def _compile(self, shapes: Mapping[str, list[int]], threads: int, streams: int = 1) -> Any:
        model = self.source.clone()
        if shapes:
            model.reshape({model.input(name): shape for name, shape in shapes.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # pinned threads of several processes end up on the same processors
        }
        return _core().compile_model(model, "CPU", settings)


@dataclass(slots=True)
class AnyShape:
    """A compiled graph of any shape and its idle infer requests; a request serves one run at a time."""

    compiled: Any
    model: Model
    idle: list[Any] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def start(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Any:
        """Begins a run of one text a row; both int64 [rows, longest], the mask 1 on their own tokens."""
        with self.lock:
            request = self.idle.pop() if self.idle else None
        request = request or self.compiled.create_infer_request()
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.model.placed:
            whole = mask.astype(bool)[:, None, None, :]
            inputs |= {"position_ids": self.model.positions(ids), "attention_mask": whole}
        request.start_async(inputs, share_inputs=False)
        return request

    def finish(self, request: Any) -> NDArray[np.float32]:
        """Waits for a run and copies its hidden states, float32 [rows, longest, hidden_dim]."""
        request.wait()
        hidden = np.array(request.get_output_tensor(0).data, np.float32)
        with self.lock:
            self.idle.append(request)
        return hidden


class OneRow:
    """A compiled graph of one row; safe to call from several threads.

    Where it has all threads, the calling thread is one of them: handing over to a thread of the library's own and
    back cost a third of what a second thread gains.
    """

    def __init__(self, compiled: Any, model: Model, cells: int, lanes: int) -> None:
        self._compiled, self._model, self._cells = compiled, model, cells
        self._here = lanes == 1
        self._idle: list[_Request] = []

    def __call__(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Hidden states of each text, float32 [t_i, hidden_dim].

        Args:
            rows: At least one, and no more than there are cells for; one only, where the model counts by itself.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled, self._model, self._cells)
        found = request.run(rows, here=self._here)
        self._idle.append(request)  # not after an error
        return found


class _Request:
    """An infer request and the arrays that it reads."""

    def __init__(self, compiled: Any, model: Model, cells: int) -> None:
        # Set first, so that it goes first: where a run was interrupted it waits for what reads the arrays.
        self._request = compiled.create_infer_request()
        self._model = model
        self._ids = np.zeros((1, cells), np.int64)
        self._positions = np.zeros((1, cells), np.int64)  # those of cells without a text are of no matter
        self._mask = np.zeros((1, 1, cells, cells), bool) if model.placed else np.zeros((1, cells), np.int64)
        inputs = {"input_ids": self._ids, "attention_mask": self._mask}
        if model.placed:
            inputs["position_ids"] = self._positions
        for name, array in inputs.items():
            self._request.set_tensor(name, openvino().Tensor(array, shared_memory=True))

    def run(self, rows: Sequence[NDArray[np.int64]], *, here: bool) -> list[NDArray[np.float32]]:
        starts = self._place(rows)
        if here:
            self._request.infer()
        else:
            self._request.start_async()
            self._request.wait()
        hidden = self._request.get_output_tensor(0).data[0]
        return [
            np.array(hidden[start : start + len(row)], np.float32) for start, row in zip(starts, rows, strict=True)
        ]

    def _place(self, rows: Sequence[NDArray[np.int64]]) -> list[int]:
        """Lays texts out side by side. Returns where each begins."""
        self._ids.fill(self._model.pad_id)
        self._mask.fill(0)
        starts, at = [], 0
        for row in rows:
            end, following = at + len(row), at + cells_of(row)
            self._ids[0, at:end] = row
            if self._model.placed:
                self._positions[0, at:end] = self._model.positions(row)
                self._mask[0, 0, at:following, at:end] = True
            else:
                self._mask[0, at:end] = 1
            starts.append(at)
            at = following
        if self._model.placed:
            self._mask[0, 0, at:, 0] = True  # what attends to nothing becomes NaN, and 0 times NaN is no 0
        return starts
