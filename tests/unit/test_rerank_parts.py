"""Many passages are scored some at a time where time counts: the same maxima, and an end once nobody waits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lir_agents import Document, LateInteractionIndex
from lir_agents.graph.attempt import GivenUp
from lir_agents.graph.parts import Parts
from lir_agents.graph.reading import read_query
from lir_agents.graph.request import Request
from lir_agents.graph.rerank import token_maxima
from lir_agents.graph.view import look_at
from tests.hashed_encoder import HashedEncoder


class SomeAtATime(Parts):
    at_once = 7

    def __init__(self, looks: int = 10_000) -> None:
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise GivenUp


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 30])
def test_some_at_a_time_give_the_same_maxima(quick_path: Path, count: int) -> None:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder()) as index:
        index.add(Document(id=f"d{n}", text=f"Rule {n} about leave. " * (1 + n % 5)) for n in range(40))
        rooms, request = index.rooms, Request("the rule about leave", 5)
        view = look_at(rooms, request, rooms.policy.authorize(None, "search"))
        reading, rows = read_query(rooms, request.query, view), np.arange(1, 1 + count, dtype=np.int64)
        (whole,) = token_maxima(rooms, [reading], rows)
        (parted,) = token_maxima(rooms, [reading], rows, SomeAtATime())
        np.testing.assert_array_equal(whole.offsets, parted.offsets)
        np.testing.assert_allclose(whole.blocks, parted.blocks, atol=1e-6)
        assert len(whole.maxsim()) == count
        if count == 30:
            with pytest.raises(GivenUp):
                token_maxima(rooms, [reading], rows, SomeAtATime(looks=2))
