"""Short rows in OpenVINO: what a question takes time for is reading the weights, so those who wait read them once.

A caller alone gets all threads for a row or two, or for up to four questions at once. Callers that have to wait for
each other go into one run, on one thread. What one of them gets depends in no bit on the others, on the number of
threads or on the load: tried on each machine before it is relied on (:meth:`ShortRows.steady`). The length of a
graph follows from what one call asks, and from nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.openvino_graphs import Model, OneShape
from lir_agents.encoding.together import Together

__all__ = ["ShortRows"]

Ids = NDArray[np.int64]
Hidden = NDArray[np.float32]
_Call = tuple[int, int]  # rows, length in tokens
_Shape = tuple[int, int, int]  # rows, length in tokens, lanes
_log = logging.getLogger(__name__)

_LENGTHS: Final[Mapping[int, Sequence[int]]] = {1: (32, 64), 2: (32, 48, 80), 4: (32,)}
"""Rows of a call to the lengths that there are graphs for."""
_FOUR: Final = 4
"""Questions of one caller that go into one run on all threads: 1.0 ms each, where one alone takes 1.9."""
_SHARED: Final[Mapping[_Call, Sequence[int]]] = {(1, 32): (1, 4), (2, 32): (2, 4), (2, 48): (2, 4)}
"""Calls to the rows of the graphs for callers that meet: one call's, and as many as are worth it. Other calls are
rare, and go one by one."""
_FEW: Final = 4
"""More rows than this that each would run alone are worth one run of another graph."""
_MOST_LANES: Final = 8


class ShortRows:
    """Runs calls of one to four short rows. A graph is compiled when it is first wanted, and there for good.

    Args:
        model: The model.
        max_tokens: Longest row there will be; padding does not pass it.
        together: Whether rows may share a run: those of several callers, or several questions of one.
    """

    def __init__(self, model: Model, max_tokens: int, *, together: bool) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._shared = _SHARED if together else {}
        self._lanes = min(model.threads, _MOST_LANES)
        self._line: Together[_Call, Sequence[Ids], Sequence[Hidden]] = Together(
            self._run, self._most, at_once=max(1, self._lanes // 2), lanes=self._lanes
        )
        self._graphs: dict[_Shape, OneShape] = {}
        self._asked_for: dict[_Shape, Lock] = {}
        self._lock = Lock()

    def groups(self, rows: Sequence[Ids]) -> list[list[int]]:
        """Which rows of a call go into which run. What is in none is too long for that, or better off together."""
        if len(rows) == 2 and self._length(rows):
            return [[0, 1]]
        lengths = [self._length([row]) for row in rows]
        least = _LENGTHS[_FOUR][0] if self._shared else 0
        fours = [i for i, length in enumerate(lengths) if length == least != 0]
        others = [[i] for i, length in enumerate(lengths) if length > least]
        groups = [fours[at : at + _FOUR] for at in range(0, len(fours), _FOUR)]
        return groups + (others if len(others) <= _FEW else [])

    def __call__(self, rows: Sequence[Ids]) -> Sequence[Hidden]:
        """Hidden states of each row of a group, float32 [t_i, hidden_dim]. Waits while others run."""
        return self._line((_graph_rows(len(rows)), self._length(rows)), rows)

    def _length(self, rows: Sequence[Ids]) -> int:
        """The length of the graph for these rows of one call; 0 if there is none."""
        longest = max(map(len, rows))
        lengths = _LENGTHS[_graph_rows(len(rows))]
        return next((length for length in lengths if longest <= length <= self._max_tokens), 0)

    def steady(self, rows: Sequence[Ids]) -> bool:
        """Whether rows get the same hidden states, to the bit, alone with all threads and among others: those of
        other callers, on one thread, or of the same, on all."""
        for (_, length), sizes in _SHARED.items():
            short = [row for row in rows if len(row) <= length <= self._max_tokens]
            shapes = [(size, length, self._lanes) for size in sizes]
            shapes += [(_FOUR, length, 1)] if length in _LENGTHS[_FOUR] else []
            for at in range(0, len(short), sizes[-1]):
                group = short[at : at + sizes[-1]]
                alone = [self._compiled((sizes[0], length, 1))([row])[0] for row in group]
                for shape in shapes:
                    graph, size = self._compiled(shape), shape[0]
                    found = [hidden for i in range(0, len(group), size) for hidden in graph(group[i : i + size])]
                    if not all(map(np.array_equal, found, alone)):
                        return False
        return True

    def _most(self, call: _Call) -> int:
        sizes = self._shared.get(call, (1,))
        return sizes[-1] // sizes[0]

    def _run(self, call: _Call, calls: Sequence[Sequence[Ids]], crowded: bool) -> list[Sequence[Hidden]]:
        (each, length), rows = call, [row for one in calls for row in one]
        size = next((size for size in self._shared.get(call, ()) if size >= len(rows)), 0)
        together = self._if_there((size, length, self._lanes)) if crowded and size else None
        if together is None:
            alone = self._if_there((each, length, 1)) if each == _FOUR else self._compiled((each, length, 1))
            if alone is None:
                one = self._compiled((1, length, 1))
                return [[one([row])[0] for row in asked] for asked in calls]
            return [alone(asked) for asked in calls]
        found = together(rows)
        return [found[i : i + each] for i in range(0, len(found), each)]

    def _compiled(self, shape: _Shape) -> OneShape:
        with self._lock:
            compiling = self._asked_for.setdefault(shape, Lock())
        with compiling:
            if shape not in self._graphs:
                self._graphs[shape] = self._model.one_shape(*shape)
        return self._graphs[shape]

    def _if_there(self, shape: _Shape) -> OneShape | None:
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
            _log.warning("No graph for %d rows of %d tokens; they take turns", *shape[:2], exc_info=True)


def _graph_rows(rows: int) -> int:
    """Rows of the graph that so many rows of one call go into."""
    return next(size for size in _LENGTHS if size >= rows)
