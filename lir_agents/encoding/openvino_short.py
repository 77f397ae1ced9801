"""Short texts in OpenVINO: what a question takes time for is reading the weights, so those who wait read them once.

A caller alone gets all threads, and one run for all its texts that fit into a row. Callers that have to wait for
each other go into one row, on one thread. What one of them gets depends in no bit on the others, on where its
texts lie, on the number of threads or on the load: tried on each machine before it is relied on
(:meth:`ShortRows.shareable`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.openvino_graphs import Model, OneRow, cells_of
from lir_agents.encoding.together import Together

__all__ = ["ShortRows"]

Ids = NDArray[np.int64]
Hidden = NDArray[np.float32]
_Shape = tuple[int, int]  # cells, lanes
_log = logging.getLogger(__name__)

_CELLS: Final = (32, 48, 64, 96, 128)
"""The rows that there are graphs for."""
_SHORT: Final = 64
"""A text of more cells than this is worth a run of its own where its caller has more texts than fit into a row."""
_FEW: Final = 4
"""More texts than this that each would run alone are worth one run of another graph."""
_MOST_LANES: Final = 8


class ShortRows:
    """Runs groups of short texts. A graph is compiled when it is first wanted, and there for good.

    Args:
        model: The model.
        max_tokens: Longest text there will be.
        shared: Whether callers may share a run: where :meth:`shareable` found that they cannot tell.
    """

    def __init__(self, model: Model, max_tokens: int, *, shared: bool) -> None:
        self._model = model
        self._sizes = [cells for cells in _CELLS if model.placed or cells <= max_tokens]
        self._lanes = min(model.threads, _MOST_LANES)
        self._crowds = shared and self._lanes > 1
        self._line: Together[Sequence[Ids], Sequence[Hidden]] = Together(
            self._run,
            _cells,
            room=_CELLS[-1] if shared and model.placed else 0,
            at_once=max(1, self._lanes // 2),
            lanes=self._lanes,
        )
        self._graphs: dict[_Shape, OneRow] = {}
        self._asked_for: dict[_Shape, Lock] = {}
        self._lock = Lock()

    def groups(self, rows: Sequence[Ids]) -> list[list[int]]:
        """Which texts of a call go into which run. Those in none are too long for that, or too many."""
        if not self._model.placed:
            alone = [[i] for i, row in enumerate(rows) if self._size(cells_of(row))]
            return alone if len(alone) <= _FEW else []
        if _cells(rows) <= _CELLS[-1]:
            return [list(range(len(rows)))]
        return _fill(rows, (i for i, row in enumerate(rows) if cells_of(row) <= _SHORT))

    def __call__(self, rows: Sequence[Ids]) -> Sequence[Hidden]:
        """Hidden states of each text of a group, float32 [t_i, hidden_dim]. Waits while others run."""
        return self._line(rows)

    def shareable(self, rows: Sequence[Ids]) -> bool:
        """Whether texts get the same hidden states, to the bit, alone with all threads, and in company: of the same
        caller's texts, or of other callers', on one thread."""
        short = [row for row in rows if self._size(cells_of(row))]
        alone = [self._alone([row])[0] for row in short]
        for shape in ((cells, lanes) for cells in self._sizes for lanes in {1, self._lanes}):
            for group in self._companies(short, shape[0]):
                found = self._compiled(shape)([short[i] for i in group])
                if not all(np.array_equal(one, alone[i]) for i, one in zip(group, found, strict=True)):
                    return False
        return True

    def _companies(self, rows: Sequence[Ids], cells: int) -> list[list[int]]:
        """Groups of texts to try a graph of so many cells with: in two orders, so that most begin at two places."""
        if not self._model.placed:
            return [[i] for i, row in enumerate(rows) if self._size(cells_of(row)) == cells]
        fits = [i for i, row in enumerate(rows) if cells_of(row) <= cells]
        return _fill(rows, fits, cells) + _fill(rows, fits[::-1], cells)

    def _size(self, cells: int) -> int:
        """Cells of the graph for so many; 0 if there is none."""
        return next((size for size in self._sizes if cells <= size), 0)

    def _run(self, calls: Sequence[Sequence[Ids]], crowded: bool) -> list[Sequence[Hidden]]:
        rows = [row for one in calls for row in one]
        shape = self._size(_cells(rows)), self._lanes if crowded and self._crowds else 1
        graph = self._compiled(shape) if shape[1] == 1 else self._if_there(shape)
        if graph is None:
            return [self._alone(asked) for asked in calls]
        found = iter(self._kept_apart(graph, rows))
        return [[next(found) for _ in asked] for asked in calls]

    def _alone(self, rows: Sequence[Ids]) -> list[Hidden]:
        return self._kept_apart(self._compiled((self._size(_cells(rows)), 1)), rows)

    def _kept_apart(self, graph: OneRow, rows: Sequence[Ids]) -> list[Hidden]:
        """A text whose states overflow would spoil its neighbours': what they do not look at counts 0 times, and 0
        times infinity is no 0. Then each runs by itself."""
        found = graph(rows)
        if len(rows) == 1 or all(np.isfinite(one).all() for one in found):
            return found
        return [self._alone([row])[0] for row in rows]

    def _compiled(self, shape: _Shape) -> OneRow:
        with self._lock:
            compiling = self._asked_for.setdefault(shape, Lock())
        with compiling:
            if shape not in self._graphs:
                self._graphs[shape] = self._model.one_row(*shape)
        return self._graphs[shape]

    def _if_there(self, shape: _Shape) -> OneRow | None:
        """A graph, or None for as long as a thread of its own makes it: who can do without does not wait for it."""
        with self._lock:
            asked_for = shape in self._asked_for
            self._asked_for.setdefault(shape, Lock())
        if not asked_for:
            with suppress(RuntimeError):  # there are no more threads to be had, or the process is about to end
                Thread(target=self._prepare, args=(shape,), name="lir-compile").start()
        return self._graphs.get(shape)

    def _prepare(self, shape: _Shape) -> None:
        try:
            self._compiled(shape)
        except Exception:  # noqa: BLE001  whatever the library raises: everybody goes on alone
            _log.warning("No graph for %d tokens of several callers; they take turns", shape[0], exc_info=True)


def _cells(rows: Sequence[Ids]) -> int:
    return sum(map(cells_of, rows))


def _fill(rows: Sequence[Ids], which: Iterable[int], room: int = _CELLS[-1]) -> list[list[int]]:
    """Groups that fill a row of a graph one after the other."""
    groups: list[list[int]] = []
    left = 0
    for i in which:
        if not groups or cells_of(rows[i]) > left:
            groups.append([])
            left = room
        groups[-1].append(i)
        left -= cells_of(rows[i])
    return groups
