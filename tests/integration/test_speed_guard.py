"""Guards against getting slower, by ratio to what is measured in the same moment: never by milliseconds.

A machine that does other things slows both sides, not always alike: the best of several tries counts, and limits
lie well above what is usual, so that they catch a fast path that is no longer taken rather than a few per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks import scoring, speed
from benchmarks.timing import interleaved
from lir_agents import LateInteractionIndex, Principal
from tests.conftest import office_documents

_TRIES = 5
_QUESTIONS = [
    f"how many days of {what} are there in {place}?" for what in ("leave", "vpn") for place in ("Oslo", "Athens")
]
_STAFF = Principal("alice", groups=["group:staff"])


@pytest.fixture(scope="module")
def indexes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LateInteractionIndex, LateInteractionIndex]]:
    """The same documents with access open, and under access control."""
    folder = tmp_path_factory.mktemp("guard")
    with (
        LateInteractionIndex.open(folder / "open.lir") as free,
        LateInteractionIndex.open(folder / "acl.lir", access="acl") as governed,
    ):
        documents = office_documents()
        free.add(documents)
        governed.add([replace(one, acl=["group:staff"]) for one in documents])
        yield free, governed


def best(measure: Callable[[], float], limit: float) -> float:
    """The smallest of some tries; no more of them than it takes to be within the limit."""
    found = float("inf")
    for _ in range(_TRIES):
        found = min(found, measure())
        if found <= limit:
            break
    return found


@pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor does not multiply bytes natively")
@pytest.mark.parametrize(("dim", "limit"), [(128, 4.5), (384, 4)])
def test_scoring_stays_close_to_its_product(dim: int, limit: float) -> None:
    """Usual: 2 to 3 times the product alone on one thread; in float32 it would be 6 and 11."""

    def measure() -> float:
        taken = scoring.against_the_product(dim, 15, rivals=False)["fastest_ms"]
        return taken["maxsim"] / min(each for name, each in taken.items() if name.endswith("one thread"))

    assert best(measure, limit) <= limit


def test_a_search_stays_close_to_its_parts(indexes: tuple[LateInteractionIndex, LateInteractionIndex]) -> None:
    """Usual: 1.6 times encoding, first stage, gathering and MaxSim by hand."""

    def measure() -> float:
        found = speed.parts(indexes[0], _QUESTIONS * 3)["latency_ms"]
        return found["search"]["q1"] / found["parts"]["q1"]

    assert best(measure, 4) <= 4


def test_access_control_costs_no_multiple(indexes: tuple[LateInteractionIndex, LateInteractionIndex]) -> None:
    """Usual: nothing that shows."""
    free, governed = indexes

    def measure() -> float:
        taken = interleaved(
            {
                "off": lambda query: free.search(query, k=5),
                "on": lambda query: governed.search(query, k=5, principal=_STAFF),
            },
            _QUESTIONS * 3,
        )
        return min(taken["on"]) / min(taken["off"])

    assert best(measure, 2) <= 2
