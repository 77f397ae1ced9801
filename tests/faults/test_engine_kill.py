"""SIGKILL at any moment of ingestion: the index opens, is consistent, and is finished by running again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lir_agents import LateInteractionIndex
from tests.faults.engine_worker import GONE, SECRET, SETTINGS, base, run, work
from tests.hashed_encoder import HashedEncoder

ROOT = Path(__file__).resolve().parents[2]
QUERIES = ("rule about leave and pay", "part 2 of edition 2", "travel", "rule 17")


class Worker:
    """The process that forks the runs; see `engine_worker`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.engine_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def run(self, path: Path, *, kill_after_s: float | None = None, die_at: int | None = None) -> tuple[int, int]:
        """Makes one run; returns its wait status and how many documents it acknowledged."""
        self._process.stdin.write(json.dumps({"path": str(path), "die_at": die_at}) + "\n")
        self._process.stdin.flush()
        child = int(self._line())
        timer = threading.Timer(kill_after_s or 0, self._kill, args=(child,))
        if kill_after_s is not None:
            timer.start()
        acknowledged = 0
        while not (line := self._line()).startswith("end"):
            acknowledged = int(line) if line.isdigit() else acknowledged  # a number may be cut off by the kill
        timer.cancel()
        return int(line.split()[1]), acknowledged

    def close(self) -> None:
        self._process.communicate("", timeout=60)

    def _line(self) -> str:
        line = self._process.stdout.readline()
        assert line, "the worker died"
        return str(line).strip()

    @staticmethod
    def _kill(child: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself
            os.kill(child, signal.SIGKILL)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    opened = Worker()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with twenty-two documents, about to be worked on."""
    path = tmp_path_factory.mktemp("kill") / "begun.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), settings=SETTINGS) as index:
        assert index.add(base()).added == 22
    return path


@pytest.fixture(scope="module")
def finished(begun: Path) -> tuple[dict[str, Any], float]:
    """What an uninterrupted run leaves, and how many seconds it takes."""
    path = shutil.copytree(begun, begun.with_name("finished.lir"))
    started = time.perf_counter()
    run(path)
    elapsed_s = time.perf_counter() - started
    return contents(path), elapsed_s


def contents(path: Path) -> dict[str, Any]:
    """All that a reader can see, and what no reader must see; fails where the index is not consistent."""
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), settings=SETTINGS) as index:
        assert index.verify() == []
        assert index.stats()["pending_passages"] == 0
        by_document: dict[str, list[Any]] = {}
        for hit in index.search("rule", k=1000):
            by_document.setdefault(hit.document_id, []).append(hit)
        documents = {}
        for name, hits in by_document.items():
            stored = index.get(name)
            assert {hit.version for hit in hits} == {stored.info.version}
            assert len(hits) == stored.info.passages
            assert all(stored.text[hit.start : hit.end] == hit.text for hit in hits)
            told = "".join(hit.text for hit in sorted(hits, key=lambda hit: hit.start))
            assert "".join(told.split()) == "".join(stored.text.split())
            editions = {word for word in stored.text.split("edition ")[1:] for word in word.split()[:1]}
            assert editions <= {str(stored.metadata.get("edition"))}
            documents[name] = (stored.text, stored.info.version, stored.metadata)
        answers = [
            [(hit.passage_id, hit.score, dict(hit.breakdown), hit.text) for hit in index.search(query, k=1000)]
            for query in QUERIES
        ]
        past = [(hit.passage_id, hit.score) for hit in index.search("rule", k=1000, as_of=6)]
    return {"documents": documents, "answers": answers, "past": past}


def assert_acknowledged(path: Path, count: int) -> None:
    """Nothing of a batch that `add` had reported is lost."""
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), settings=SETTINGS) as index:
        for document in work()[:count]:
            assert index.get(document.id).text == document.text


def kill_again_and_again(worker: Worker, begun: Path, finished: tuple[dict[str, Any], float], points: int) -> int:
    """Kills runs at random moments, each going on where the last one died, until as many died as were asked for;
    returns how many did."""
    wanted, lasts_s = finished
    chance = random.Random(20260)
    path, rounds, killed = begun.with_name("killed.lir"), 0, 0
    while killed < points:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(begun, path)
        for _ in range(4):
            status, acknowledged = worker.run(path, kill_after_s=chance.uniform(0.02, 1.1 * lasts_s))
            assert status in (0, int(signal.SIGKILL))
            killed += status == signal.SIGKILL
            contents(path)
            assert_acknowledged(path, acknowledged)
            if status == 0 or killed >= points:
                break
        status, _ = worker.run(path)
        assert status == 0
        assert contents(path) == wanted
        assert_forgotten(path)
        rounds += 1
        assert rounds <= 3 * points
    return killed


def assert_forgotten(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert SECRET.encode() not in content, file
            assert GONE.encode() not in content, file


def test_killed_a_few_times(worker, begun, finished):
    assert kill_again_and_again(worker, begun, finished, 6) == 6


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_at_a_hundred_points(worker, begun, finished):
    assert kill_again_and_again(worker, begun, finished, 100) == 100


@pytest.mark.parametrize("event", [2, 12])
def test_killed_between_the_record_and_the_commit(worker, begun, finished, tmp_path, event):
    """The log may speak of a batch that never became visible; the index holds none that the log does not know."""
    path = shutil.copytree(begun, tmp_path / "i.lir")
    status, acknowledged = worker.run(path, die_at=event)
    assert status == signal.SIGKILL
    contents(path)
    assert_acknowledged(path, acknowledged)
    assert worker.run(path)[0] == 0
    assert contents(path) == finished[0]
    assert_forgotten(path)
