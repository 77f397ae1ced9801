"""Signals of metadata: recency and preferred kinds lift what was found, within bounds; replays know the time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lir_agents import Document, InputError, LateInteractionIndex, MetadataSignal, Settings
from tests.hashed_encoder import HashedEncoder

NOW = datetime.now(UTC)
AGES = {"today": 0, "month": 30, "quarter": 95, "year": 365, "future": -40}


def documents() -> Iterator[Document]:
    for name, days in AGES.items():
        moment = NOW - timedelta(days=days)
        yield Document("The office is open.", id=f"text/{name}", metadata={"published": moment.date().isoformat()})
        yield Document("The office is open.", id=f"number/{name}", metadata={"published": moment.timestamp()})
    yield Document("The office is open.", id="undated", metadata={"kind": "official"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with LateInteractionIndex.open(tmp_path / "i.lir", encoder=HashedEncoder()) as index:
        index.add(documents())
    return tmp_path / "i.lir"


def parts(path: Path, *signals: MetadataSignal, query: str = "is the office open?") -> dict[str, float]:
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), signals=signals) as index:
        result = index.search(query, k=20)
        for hit in result:
            assert sum(hit.breakdown.values()) == pytest.approx(hit.score, abs=1e-9)
        assert index.replay(result.event_id).same
        return {hit.document_id: hit.breakdown[signals[0].label] for hit in result}


@pytest.mark.parametrize("form", ["text", "number"])
def test_what_is_newer_counts_more_and_never_more_than_its_strength(path, form):
    gained = parts(path, MetadataSignal("published", half_life_days=60, strength=0.8))
    newest, month, quarter, year, future = (gained[f"{form}/{name}"] for name in AGES)
    assert newest == future == pytest.approx(0.8)
    assert newest > month > quarter > year == 0.0
    assert quarter == pytest.approx(0.8 * 2**-1.5)
    assert gained["undated"] == 0.0


def test_a_preferred_kind_is_lifted_above_its_equals(path):
    signal = MetadataSignal("kind", prefer=["official"], strength=0.3)
    gained = parts(path, signal)
    assert gained.pop("undated") == pytest.approx(0.3)
    assert set(gained.values()) == {0.0}
    assert next(iter(parts(path, signal))) == "undated"


def test_a_key_that_no_document_has_changes_nothing(path):
    assert set(parts(path, MetadataSignal("none", half_life_days=1)).values()) == {0.0}
    assert set(parts(path, MetadataSignal("none", prefer=["x"])).values()) == {0.0}


def test_it_lifts_what_is_found_and_finds_nothing_itself(tmp_path):
    settings = {"search": {"first_stage_k": 2}}

    with LateInteractionIndex.open(
        tmp_path / "i.lir",
        encoder=HashedEncoder(),
        settings=Settings.model_validate(settings),
        signals=[MetadataSignal("kind", prefer=["official"], strength=3)],
    ) as index:
        index.add(Document(f"The office number {n} is open.", id=str(n)) for n in range(30))
        index.add([Document("Bananas are yellow.", id="bananas", metadata={"kind": "official"})])
        assert "bananas" not in [hit.document_id for hit in index.search("the office number 7", k=2)]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"metadata_key": ""}, "metadata_key"),
        ({"metadata_key": "a"}, "half_life_days"),
        ({"metadata_key": "a", "half_life_days": 1, "prefer": ["x"]}, "half_life_days"),
        ({"metadata_key": "a", "prefer": "official"}, "prefer"),
        ({"metadata_key": "a", "half_life_days": 0}, "half_life_days"),
        ({"metadata_key": "a", "half_life_days": float("nan")}, "half_life_days"),
        ({"metadata_key": "a", "half_life_days": 1, "strength": 0}, "strength"),
        ({"metadata_key": "a", "half_life_days": 1, "strength": 9}, "strength"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given, field):
    with pytest.raises(InputError, match=field):
        MetadataSignal(**given)


def test_ages_beyond_the_calendar_are_no_error(path):
    gained = parts(path, MetadataSignal("published", half_life_days=1e7, strength=1.0))
    assert gained["number/year"] == pytest.approx(1.0)
