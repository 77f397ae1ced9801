"""Which access keys hold a grant: an inverted index, so that a decision costs what its answer is long."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lir_agents.policy.keys import parse_acl_key

__all__ = ["GrantIndex"]

_FEW = 16  # up to this many keys are read one by one: the index pays only where many are asked for at once
_SLACK = 1024


class GrantIndex:
    """Answers "which of these access keys hold at least one of these grants?"

    Each distinct key is read once; afterwards an answer costs one look-up per grant and one step per key that
    holds it. Keys that are no longer asked for are dropped when they outnumber the others. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._position: dict[str, int] = {}
        self._keys_by_grant: dict[str, list[int]] = {}

    def any_of(self, grants: Collection[str], keys: Sequence[str]) -> NDArray[np.bool_]:
        """Verdict per key, bool [len(keys)]; False for every key that is not a list of grants."""
        if len(keys) <= _FEW:
            verdicts = [not set(grants).isdisjoint(parse_acl_key(key)) for key in keys]
            return np.array(verdicts, dtype=np.bool_)
        with self._lock:
            self._learn(keys)
            held = np.zeros(len(self._position), dtype=np.bool_)
            for grant in grants:
                positions = self._keys_by_grant.get(grant)
                if positions is not None:
                    held[positions] = True
            places = np.fromiter(map(self._position.__getitem__, keys), dtype=np.int64, count=len(keys))
        return np.asarray(held[places], dtype=np.bool_)

    def _learn(self, keys: Sequence[str]) -> None:
        if len(self._position) > 2 * len(keys) + _SLACK:
            self._clear()
        for key in keys:
            if key not in self._position:
                place = self._position[key] = len(self._position)
                for grant in parse_acl_key(key):
                    self._keys_by_grant.setdefault(grant, []).append(place)
