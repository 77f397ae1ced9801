"""Several questions of one caller: what all of them need of a room is asked for once.

Reading the encoder's weights and the vectors' codes is what a first stage takes its time for, and one reading
serves them all. Everything else each search does by itself, as if it had been asked alone: the policy, both walls,
the ranking and the log. What was asked for together is handed to a search as its own room's answer; where that
failed, nothing is handed over, and each asks for itself and says what became of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Final, cast

import numpy as np

from lir_agents.arrays import Encoding, RowMask
from lir_agents.graph.attempt import Attempt, Underway
from lir_agents.graph.candidates import Near, really_near
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.find import candidates_wanted, see
from lir_agents.graph.limits import Limits
from lir_agents.graph.nodes import Nodes, said_before
from lir_agents.graph.reading import encoded, room_key, texts_of
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.stages import STEPS, Run
from lir_agents.graph.state import Admitted, SearchState
from lir_agents.graph.tracing import traced
from lir_agents.telemetry import observe
from lir_agents.types import SearchResult

__all__ = ["AT_ONCE", "walk"]

AT_ONCE: Final = 16
"""Questions that share a place and a reading; more wait for the next, so that others have their turn in between."""

_BEFORE: Final = ("authorize", "memory", "tools")
_AFTER: Final = tuple(name for name in STEPS if name not in _BEFORE)


class _Part(Attempt):
    """Of one search; ends with the attempt that all of them are parts of."""

    def __init__(self, underway: Underway, limits: Limits, whole: Attempt) -> None:
        super().__init__(underway, limits)
        self._whole = whole

    def check(self) -> None:
        self._whole.check()
        super().check()


class _Search:
    """One of the questions, on its way. It runs in a context of its own: that is where it is observed."""

    def __init__(self, nodes: Nodes, given: Mapping[str, Any], run: Run, whole: Attempt) -> None:
        self._nodes, self._run = nodes, run
        self._context = copy_context()
        self._observation = self._context.run(observe, "search")
        self._state = dict(given)
        self.attempt = _Part(nodes.underway(run), nodes.rooms.limits, whole)

    def __enter__(self) -> _Search:
        self._context.run(self._observation.__enter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.run(self._observation.__exit__, kind, error, traceback)

    @property
    def state(self) -> SearchState:
        return cast("SearchState", self._state)

    @property
    def admitted(self) -> Admitted:
        admitted: Admitted = self._state["admitted"].value
        return admitted

    def take(self, names: Iterable[str]) -> None:
        """Takes steps."""
        for name in names:
            self._state.update(self._context.run(traced, name, partial(self._step, name)))

    def answered(self) -> SearchResult:
        """What the last step left behind; everything else of it goes."""
        result: SearchResult = self._state["result"]
        self._observation.end(result)
        self._state.clear()
        return result

    def _step(self, name: str) -> dict[str, Any]:
        return self._nodes.step(name, self.state, self._run, self.attempt)


def walk(nodes: Nodes, given: Sequence[Mapping[str, Any]], run: Run, attempt: Attempt) -> list[SearchResult]:
    """Takes every step of every search, none of which has a budget.

    Args:
        nodes: The steps.
        given: What each asks, as the graph's input; at most `AT_ONCE`.
        run: Who asks.
        attempt: Of whoever waits for all of them.

    Raises:
        GivenUp: Nobody waits any more.
        LirError: As of the first search that fails; those before it stand in the log.
    """
    rooms, results = nodes.rooms, []
    with ExitStack() as open_searches:
        searches = [open_searches.enter_context(_Search(nodes, one, run, attempt)) for one in given]
        for one in searches:
            one.take(_BEFORE)
        since = rooms.limits.clock()
        _ask_together(rooms, searches)
        shared_s = rooms.limits.clock() - since
        for one in searches:
            # Each waited for what was asked together: it is part of everybody's time.
            one.attempt.underway.stages["first_stage"] = rooms.limits.clock() - shared_s
            one.take(_AFTER)
            results.append(one.answered())
    return results


# ---------------------------------------------------------------- asked for once


def _ask_together(rooms: Rooms, searches: Sequence[_Search]) -> None:
    """Asks the encoder and the vectors for all searches, and tells each what it would have asked."""
    asking = Attempt(Underway(searches[0].attempt.underway.budget), rooms.limits)
    asking.begin("first_stage")
    conversations = [said_before(one.state) for one in searches]
    encodings = _encodings(rooms, searches, conversations, asking)
    if encodings is None:
        return
    alike: list[tuple[RowMask, int, list[int]]] = []
    for i, (one, conversation) in enumerate(zip(searches, conversations, strict=True)):
        view, evidence = see(rooms, one.admitted.request, one.admitted.scope, conversation, parts=one.attempt)
        if len(encodings[i]) > 1 or any(boost.seeks for boost in evidence.boosts):
            continue  # looks in another direction than its own, or in several places
        depth = candidates_wanted(rooms, one.admitted.request, one.attempt)
        for mask, known_depth, members in alike:
            if depth == known_depth and np.array_equal(mask, view.allowed):
                members.append(i)
                break
        else:
            alike.append((view.allowed, depth, [i]))
    for mask, depth, members in alike:
        near = _near(rooms, [encodings[i][0] for i in members], mask, depth, asking)
        for i, found in zip(members, near, strict=False):
            searches[i].attempt.know("first_stage", "vectors", [found])


def _encodings(
    rooms: Rooms, searches: Sequence[_Search], conversations: Sequence[Conversation], asking: Attempt
) -> list[list[Encoding]] | None:
    """What the encoder says of each turn; None where it says nothing of all of them together."""
    texts = [texts_of(one.admitted.request.query, said) for one, said in zip(searches, conversations, strict=True)]
    found = asking.ask("encoder", lambda: encoded(rooms, [text for some in texts for text in some]))
    if found is None:
        return None
    left = iter(found)
    encodings = [[next(left) for _ in some] for some in texts]
    for one, some, encoding in zip(searches, texts, encodings, strict=True):
        one.attempt.know("first_stage", "encoder", encoding, room_key(some))
    return encodings


def _near(rooms: Rooms, turns: Sequence[Encoding], mask: RowMask, depth: int, asking: Attempt) -> Sequence[Near]:
    def work() -> list[Near]:
        found = rooms.vectors.search_batch([turn.pooled for turn in turns], depth, mask)
        return [really_near(one, mask) for one in found]

    return asking.ask("vectors", work, str(id(mask))) or ()
