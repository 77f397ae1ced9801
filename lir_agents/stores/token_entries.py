"""Entries of the token store that were looked up lately, of one state of its file.

A search wants the entries of its candidates three times: for exact cosines, as signals, and to find their codes.
Each look into LMDB gives the interpreter's lock away, and each vector is checked and brought back from half
precision. So what was read once is kept until the file changes, or there is no room left.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lir_agents.stores.token_layout import Entries

__all__ = ["AT_ONCE", "LookedUp"]

_MOST: Final = 4096
"""Entries that are kept: some 6 MB at 384 dimensions."""

AT_ONCE: Final = _MOST // 4
"""Whoever wants more at once, as whoever reads everything does, would leave nothing that was kept for others."""


class LookedUp:
    """What was found in one state of the file. Only ever added to, so that readers need no lock.

    Args:
        state: The mapping and the transaction.
        dense_dim: Width of a pooled vector.
        spans: Segment to where its codes begin, and how many bytes they have, as far as known in this state.
        room: Most entries.

    Attributes:
        spans: The same; there is always room for more: there is one for thousands of tokens.
        places: uint32 [room, 3], `segment`, `first` and `count` of an entry by slot; zeros where there is none.
        pooled: float32 [room, dense_dim], by slot.
    """

    def __init__(
        self,
        state: tuple[int, int],
        dense_dim: int,
        spans: dict[int, tuple[int, int]] | None = None,
        room: int = _MOST,
    ) -> None:
        self.state = state
        self.spans = {} if spans is None else spans
        self.places = np.empty((room, 3), np.uint32)
        self.pooled = np.empty((room, dense_dim), np.float32)
        self._slots: dict[int, int] = {}
        self._used = 0
        self._lock = threading.Lock()

    def emptied(self, room: int = _MOST) -> LookedUp:
        """Of the same state, without entries."""
        return LookedUp(self.state, self.pooled.shape[1], self.spans, room)

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those that are not kept, each once."""
        return list(dict.fromkeys(row for row in rows if row not in self._slots))

    def slots(self, rows: Sequence[int]) -> NDArray[np.intp]:
        """Where rows that are all kept lie, intp [n]."""
        return np.array([self._slots[row] for row in rows], np.intp)

    def add(self, rows: Sequence[int], entries: Entries, pooled: NDArray[np.float32]) -> bool:
        """Keeps entries [n] with their vectors, float32 [n, dense_dim]; False: there is no room, and nothing is."""
        with self._lock:
            start, end = self._used, self._used + len(rows)
            if end > len(self.places):
                return False
            for at, name in enumerate(("segment", "first", "count")):
                self.places[start:end, at] = entries[name]
            self.pooled[start:end] = pooled
            self._used = end
            self._slots.update(zip(rows, range(start, end), strict=True))  # last: now others see them
            return True
