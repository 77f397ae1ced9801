"""Several questions of one caller: what all ask of the encoder and of the vectors is asked when the first does.

Reading the encoder's weights and the vectors' codes is what a first stage takes its time for, and one reading
serves several questions. So the searches of a batch pass through two rooms that know all the questions; everything
else each does by itself, as if it had been asked alone: the policy, both walls, the ranking and the log. Where
asking for all of them fails, each asks for itself, so that a failure is told to whoever it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding, RowMask, Rows
from lir_agents.encoding.base import Encoder, QueryText, is_steady
from lir_agents.graph.attempt import Attempt
from lir_agents.graph.conversation import conversation_of
from lir_agents.graph.reading import texts_of
from lir_agents.graph.request import checked_request
from lir_agents.graph.rooms import HasRooms, Rooms
from lir_agents.stores.base import VectorStore

__all__ = ["TOGETHER", "sharing"]

TOGETHER: Final = 16
"""Questions that share a place at most; more wait for the next, so that others have their turn in between."""

_Texts: TypeAlias = tuple[QueryText, ...]
_Near: TypeAlias = tuple[Rows, NDArray[np.float32]]


class _Shared:
    """An index whose encoder and vectors know what else will be asked."""

    def __init__(self, index: HasRooms, encoder: _Encoder, vectors: _Vectors) -> None:
        self._index = index
        self._rooms = replace(index.rooms, encoder=cast("Encoder", encoder), vectors=cast("VectorStore", vectors))

    @property
    def rooms(self) -> Rooms:
        """The rooms. Raises InputError once the index is closed."""
        self._index.rooms  # noqa: B018 - raises then
        return self._rooms


def sharing(index: HasRooms, given: Sequence[Mapping[str, Any]], attempt: Attempt) -> HasRooms:
    """The index for the searches of a batch, for one thread and until the last of them is over.

    Args:
        index: The open index.
        given: What each asks, as the graph's input; they differ in nothing but the query, and belong to no thread.
        attempt: That all searches are part of; it is told what is answered from memory.

    Raises:
        InputError: What they have in common is bad.
    """
    rooms = index.rooms
    requests = [checked_request(one, rooms.settings.search) for one in given]
    said = conversation_of(requests[0].history, (), requests[0].tool_signals)
    encoder = _Encoder(rooms.encoder, [tuple(texts_of(one.query, said)) for one in requests], attempt)
    return _Shared(index, encoder, _Vectors(rooms.vectors, encoder, attempt))


class _Encoder:
    """Encodes for all searches when the first of them asks.

    Args:
        encoder: The real one.
        asked: What each search will ask; all of it in one call where company changes no bit of a vector.
        attempt: See `sharing`.
    """

    def __init__(self, encoder: Encoder, asked: Sequence[_Texts], attempt: Attempt) -> None:
        self._encoder, self._attempt = encoder, attempt
        self._asked = list(dict.fromkeys(asked))
        self._known: dict[_Texts, list[Encoding]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @property
    def directions(self) -> dict[int, NDArray[np.float32]]:
        """The pooled vectors of questions that are searched for as they are, by identity."""
        known = self._known or {}
        return {id(found[0].pooled): found[0].pooled for texts, found in known.items() if len(texts) == 1}

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        recalled = self._known is not None
        if self._known is None:
            try:
                self._known = {texts: found for texts, found in self._all().items() if _whole(found, texts)}
            except Exception:  # noqa: BLE001 - whoever it belongs to is told when it asks for itself
                self._known = {}
        known = self._known.get(tuple(queries))
        if known is None:
            return self._encoder.encode_queries(queries)
        self._attempt.from_memory = recalled
        return known

    def _all(self) -> dict[_Texts, list[Encoding]]:
        if not is_steady(self._encoder):
            return {texts: self._encoder.encode_queries(texts) for texts in self._asked}
        together = list(dict.fromkeys(text for texts in self._asked for text in texts))
        found = dict(zip(together, self._encoder.encode_queries(together), strict=True))
        return {texts: [found[text] for text in texts] for texts in self._asked}


class _Vectors:
    """Searches for all questions within each mask that the first of them asks for."""

    def __init__(self, vectors: VectorStore, encoder: _Encoder, attempt: Attempt) -> None:
        self._vectors, self._encoder, self._attempt = vectors, encoder, attempt
        self._found: list[tuple[RowMask, int, dict[int, _Near]]] = []
        self._first: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vectors, name)

    def search(self, vector: NDArray[np.float32], k: int, allowed: RowMask) -> _Near:
        directions = self._encoder.directions
        if self._first is None and id(vector) in directions:
            self._first = id(vector)
        found = self._known(vector, k, allowed)
        self._attempt.from_memory = found is not None
        if found is None and self._first == id(vector):
            try:
                near = self._vectors.search_batch(list(directions.values()), k, allowed)
                self._found.append((allowed, k, dict(zip(directions, near, strict=True))))
            except Exception:  # noqa: BLE001 - as above; and nobody tries it again
                self._first = 0
            found = self._known(vector, k, allowed)
        # Whoever may read something else by now looks for it alone.
        return self._vectors.search(vector, k, allowed) if found is None else found

    def _known(self, vector: NDArray[np.float32], k: int, allowed: RowMask) -> _Near | None:
        for mask, depth, near in self._found:
            if id(vector) in near and depth == k and np.array_equal(mask, allowed):
                return near[id(vector)]
        return None


def _whole(found: Sequence[Encoding], texts: _Texts) -> bool:
    """Whether these are encodings of the texts; what else an encoder gave is its own search's trouble."""
    return len(found) == len(texts) and all(isinstance(one, Encoding) for one in found)
