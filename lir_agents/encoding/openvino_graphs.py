"""OpenVINO's graphs: the library without its telemetry, graphs of any shape and graphs of one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnyShape", "Model", "OneShape", "openvino", "processor", "read"]


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


@dataclass(frozen=True, slots=True)
class Model:
    """What graphs are made of.

    Attributes:
        source: The model, read once: its weights are mapped, and graphs share what they do not lay out anew.
        bfloat16: Whether to multiply in bfloat16; float32 otherwise.
        pad_id: Token id that padding has.
        threads: Most threads of one run.
    """

    source: Any
    bfloat16: bool
    pad_id: int
    threads: int

    def any_shape(self) -> AnyShape:
        """A graph for rows of any length, with all threads."""
        return AnyShape(self._compile(None, self.threads))

    def one_shape(self, rows: int, length: int, lanes: int) -> OneShape:
        """A graph for so many rows of one length. It holds its weights for itself, laid out for that shape.

        Args:
            rows: At least one.
            length: In tokens.
            lanes: 1: one run at a time, with all threads. More: so many at once, with one thread each.
        """
        threads = self.threads if lanes == 1 else lanes
        return OneShape(self._compile((rows, length), threads, lanes), (rows, length), self.pad_id, lanes)

    def _compile(self, shape: tuple[int, int] | None, threads: int, streams: int = 1) -> Any:
        model = self.source.clone()
        if shape:
            model.reshape({port: list(shape) for port in model.inputs})
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


class OneShape:
    """A compiled graph of one shape; safe to call from several threads.

    Where it has all threads, the calling thread is one of them: handing over to a thread of the library's own and
    back cost a third of what a second thread gains.
    """

    def __init__(self, compiled: Any, shape: tuple[int, int], pad_id: int, lanes: int) -> None:
        self._compiled, self._shape, self._pad_id = compiled, shape, pad_id
        self._here = lanes == 1
        self._idle: list[_Request] = []

    def __call__(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Hidden states of each row, float32 [t_i, hidden_dim].

        Args:
            rows: Between one and as many as the shape has.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = _Request(self._compiled, self._shape)
        found = request.run(rows, self._pad_id, here=self._here)
        self._idle.append(request)  # not after an error
        return found


class _Request:
    """An infer request and the arrays that it reads."""

    def __init__(self, compiled: Any, shape: tuple[int, int]) -> None:
        self._ids, self._mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._request = compiled.create_infer_request()
        for name, array in (("input_ids", self._ids), ("attention_mask", self._mask)):
            self._request.set_tensor(name, openvino().Tensor(array, shared_memory=True))

    def run(self, rows: Sequence[NDArray[np.int64]], pad_id: int, *, here: bool) -> list[NDArray[np.float32]]:
        for i in range(len(self._ids)):
            row = rows[min(i, len(rows) - 1)]  # a row of nothing but padding would have nothing to attend to
            self._ids[i, : len(row)], self._ids[i, len(row) :] = row, pad_id
            self._mask[i, : len(row)], self._mask[i, len(row) :] = 1, 0
        if here:
            self._request.infer()
        else:
            self._request.start_async()
            self._request.wait()
        hidden = self._request.get_output_tensor(0).data
        return [np.array(hidden[i, : len(row)], np.float32) for i, row in enumerate(rows)]
