"""How many processors there are to use: those a process may run on, and a container's share of their time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lir_agents import threads
from lir_agents.config import LimitSettings
from lir_agents.graph.limits import Limits

V2, QUOTA, PERIOD = "cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({V2: "max 100000\n"}, 64),
        ({V2: "200000 100000\n"}, 2),
        ({V2: "150000 100000\n"}, 2),
        ({V2: "5000 100000\n"}, 1),
        ({V2: "9900000 100000\n"}, 64),
        ({V2: "nonsense\n"}, 64),
        ({V2: ""}, 64),
        ({QUOTA: "-1\n", PERIOD: "100000\n"}, 64),
        ({QUOTA: "400000\n", PERIOD: "100000\n"}, 4),
        ({QUOTA: "400000\n"}, 64),
        ({QUOTA: "400000\n", PERIOD: "0\n"}, 64),
    ],
)
def test_a_containers_share_of_time_bounds_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert threads.available_processors() == expected


def test_as_many_searches_are_at_work_as_a_container_has_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / V2).write_text("300000 100000\n")
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    admission = Limits.of(LimitSettings()).admission
    assert [admission.claim() for _ in range(4)] == [True, True, True, False]
