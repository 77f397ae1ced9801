"""Minutes of mixed work by eight threads: no error, nothing leaks, and the index ends as a replay of it would.

The long form lasts `LIR_SOAK_S` seconds, half an hour if that is not set.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soaked(folder: Path, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", str(folder), str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "4"},
        timeout=3 * seconds + 600,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_sound(found: dict[str, Any]) -> None:
    assert found["errors"] == []
    assert found["problems"] == []
    assert found["unrecorded"] == 0
    assert found["after_reopening"] == 0
    assert found["against_replay"] == 0
    assert found["passages"] > 20
    assert {"search", "add", "delete", "look"} <= found["done"].keys()


def levels(found: dict[str, Any], name: str) -> tuple[float, float]:
    """Medians of the second fifth, when it is warm, and of the last."""
    values, fifth = [one[name] for one in found["samples"]], len(found["samples"]) // 5
    return statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])


def test_ten_seconds(tmp_path):
    found = soaked(tmp_path, 10)
    assert_sound(found)
    warm, last = levels(found, "files")
    assert last <= warm + 8


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_half_an_hour(tmp_path):
    found = soaked(tmp_path, float(os.environ.get("LIR_SOAK_S", "1800")))
    figures = {name: levels(found, name) for name in ("anonymous_mb", "all_mb", "files", "threads", "disk_mb")}
    print({"done": found["done"], "retried": found["retried"], "passages": found["passages"], **figures})
    (tmp_path / "soak.json").write_text(json.dumps(found))
    assert_sound(found)
    warm, last = figures["anonymous_mb"]
    assert last <= 1.1 * warm + 16
    warm, last = figures["files"]
    assert last <= warm + 4
    warm, last = figures["threads"]
    assert last <= warm + 4
