"""What each signal counts can be set, and says so wherever it matters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lir_agents import ConfigError, LateInteractionIndex, ToolBinding, ToolSignal
from lir_agents.config import FusionSettings, Settings, load_settings
from lir_agents.ranking.fusion import FusionWeights
from tests.doors import QUERIES, documents
from tests.hashed_encoder import HashedEncoder

Opening = Callable[..., LateInteractionIndex]


@pytest.fixture
def opened(quick_path: Path) -> Iterator[Opening]:
    """Opens one and the same index, each time with other weights."""
    held: list[LateInteractionIndex] = []

    def opening(**weights: float) -> LateInteractionIndex:
        if held:
            held.pop().close()
        held.append(
            LateInteractionIndex.open(
                quick_path / "i.lir",
                encoder=HashedEncoder(),
                settings=Settings(fusion=FusionSettings(**weights)),
                bindings=[ToolBinding("clock", "parity", "parity")],
            )
        )
        held[0].add(documents())
        return held[0]

    yield opening
    held.pop().close()


def test_nothing_set_is_what_ships(opened: Opening) -> None:
    assert opened().rooms.weights == FusionWeights()


def test_a_signal_alone_orders_by_itself(opened: Opening) -> None:
    index = opened(maxsim=0, dense=0, lexical=1, neighbours=0)
    table = index.candidates(QUERIES[0], depth=50)
    scores = dict(zip(table.rows.tolist(), table.lexical.tolist(), strict=True))
    hits = index.search(QUERIES[0], k=50)
    told = [scores[hit.row] for hit in hits]
    assert told == sorted(told, reverse=True)
    assert all(hit.breakdown["maxsim"] == hit.breakdown["dense"] == 0 for hit in hits)


def test_context_and_tools_can_be_left_out_of_it(opened: Opening) -> None:
    signal = ToolSignal("clock", {"parity": "even"}, confidence=1.0)

    def parts(index: LateInteractionIndex) -> list[dict[str, Any]]:
        index.search(QUERIES[0], thread_id="t")
        return [dict(hit.breakdown) for hit in index.search(QUERIES[1], thread_id="t", tool_signals=[signal])]

    assert any(part["tool:clock"] == FusionWeights().tool and part["context"] != 0 for part in parts(opened()))
    assert all(
        part["tool:clock"] == 0 == part["context"] for part in parts(opened(context=0, context_terms=0, tool=0))
    )


def test_the_log_tells_one_choice_from_another(opened: Opening) -> None:
    def recorded(**weights: float) -> str:
        index = opened(**weights)
        return str(index.audit.show(index.search(QUERIES[0]).event_id))

    digests = [re.search(r"'settings': '(\w+)'", recorded(**weights)) for weights in ({}, {"block": 0.1}, {})]
    first, other, again = (found[1] for found in digests if found)
    assert first == again != other


def test_file_and_environment_set_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lir.toml"
    file.write_text("[fusion]\nmaxsim = 0.7\n")
    monkeypatch.setenv("LIR_FUSION__DENSE", "0.2")
    assert load_settings(file).fusion == FusionSettings(maxsim=0.7, dense=0.2)
    file.write_text("[fusion]\nmaxsim = -1\n")
    with pytest.raises(ConfigError, match=r"fusion\.maxsim"):
        load_settings(file)


def test_an_index_that_would_rank_by_nothing_is_not_opened(quick_path: Path) -> None:
    settings = Settings(fusion=FusionSettings(maxsim=0, dense=0, lexical=0))
    with pytest.raises(ConfigError, match="fusion"):
        LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder(), settings=settings)
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder()) as index:
        assert index.add(documents(3)).added == 3
