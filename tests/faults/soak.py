"""Eight threads read, write, delete, erase and add again, for as long as they are told to.

``python -m tests.faults.soak DIRECTORY SECONDS`` prints one JSON object: what was done, what went wrong, samples of
memory and of open files, and whether the index ends like one that the same operations were replayed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import re
import sqlite3
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lir_agents import Document, LateInteractionIndex, Principal, StoreError, ToolSignal, Turn
from lir_agents.arrays import Encoding
from lir_agents.config import Settings
from tests.hashed_encoder import HashedEncoder

THREADS, OWN_DOCUMENTS = 8, 10
QUERIES = ("rule about leave and pay", "travel by train", "edition of the rule", "who may park a bicycle?")
TOPICS = ("leave", "pay", "travel by train", "the bicycle", "the canteen", "visitors", "the fire drill")
SETTINGS = Settings(memory={"max_turns": 6, "timeout_s": 20.0})
EVERYBODY = Principal("all", groups=["group:0", "group:1"])
PAUSE_S = 0.15
"""The most that a thread rests between two operations: so that it is a soak, and no race for two cores."""


class Encoder(HashedEncoder):
    """Keeps no list of what it encoded: a test's own leak would hide another."""

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for at, text in enumerate(texts):
            yield at, self._encode(text)

    def encode_queries(self, queries: Sequence[Any]) -> list[Encoding]:
        return [self._encode(query.text, query.context) for query in queries]


@dataclass
class Soak:
    """One index under eight threads. Each thread owns ten documents, so that its own log says what they become."""

    index: LateInteractionIndex
    until: float
    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    retried: int = 0
    logs: dict[int, list[tuple[str, str, int]]] = field(default_factory=dict)

    def thread(self, number: int) -> None:
        chance, log = random.Random(number), self.logs.setdefault(number, [])
        step = 0
        while time.monotonic() < self.until and not self.errors:
            step += 1
            try:
                kind = chance.choices(("search", "add", "delete", "look", "erase"), (60, 25, 9, 5, 0.6))[0]
                name = f"{number}/{chance.randrange(OWN_DOCUMENTS)}"
                if kind == "search":
                    self._search(number, chance)
                elif kind == "look":
                    self._look(number, name)
                else:
                    self._write(kind, name, step)
                    log.append((kind, name, step))
                self.done[kind] += 1
            except BaseException:
                self.errors.append(traceback.format_exc())
            time.sleep(chance.uniform(0, PAUSE_S))

    def _write(self, kind: str, name: str, step: int) -> None:
        for attempt in range(5):
            try:
                write(self.index, kind, name, step)
                return
            except StoreError as error:
                if not error.retryable or attempt == 4:
                    raise
                self.retried += 1
                time.sleep(0.2)

    def _search(self, number: int, chance: random.Random) -> None:
        group = chance.randrange(2)
        asked: dict[str, Any] = {
            "k": chance.choice((3, 10, 40)),
            "principal": Principal(f"p{number}", groups=[f"group:{group}"]),
        }
        if chance.random() < 0.5:
            asked |= {"thread_id": f"t{number}.{group}", "history": [Turn("user", "what about leave?")]}
        if chance.random() < 0.2:
            asked["tool_signals"] = [ToolSignal("clock", {"step": 1})]
        query = chance.choice(QUERIES)
        if number == 0:
            result = asyncio.run(self.index.asearch(query, **asked))
        else:
            result = self.index.search(query, **asked)
        assert result.event_id
        assert result.coverage.full, result.coverage.caveat
        for hit in result:
            assert int(hit.document_id[0]) % 2 == group, "a passage that may not be read"
            told = set(re.findall(r"edition (\d+)\.", hit.text))
            assert told <= {str(hit.metadata["edition"])}, "a passage of another edition"
        if result.hits and chance.random() < 0.1:
            result.hits[0].explain()

    def _look(self, number: int, name: str) -> None:
        who = Principal(f"p{number}", groups=[f"group:{number % 2}"])
        stored, versions = self.index.get(name, principal=who), self.index.versions(name, principal=who)
        assert stored is None or stored.info.version == versions[-1].version
        assert self.index.stats()["pending_passages"] >= 0


def write(index: LateInteractionIndex, kind: str, name: str, step: int) -> None:
    """One change. The same step writes the same document, whenever it is made."""
    if kind == "delete":
        index.delete([name])
    elif kind == "erase":
        index.erase([name])
    else:
        report = index.add([document(name, step)])
        assert report.ok, report.failed


def document(name: str, step: int) -> Document:
    chance = random.Random(f"{name} {step}")
    parts = [
        f"Part {part} of rule {name} is about {chance.choice(TOPICS)} and {chance.choice(TOPICS)}; "
        f"it says {chance.randrange(100)} in edition {step}. " + "All of it counts. " * chance.randrange(12)
        for part in range(chance.randrange(1, 5))
    ]
    group = int(name[0]) % 2
    return Document(
        id=name, title=f"Rule {name}", text="\n\n".join(parts), acl=[f"group:{group}"], metadata={"edition": step}
    )


def open_index(path: Path) -> LateInteractionIndex:
    return LateInteractionIndex.open(path, access="acl", encoder=Encoder(), settings=SETTINGS)


def sample(path: Path) -> dict[str, float]:
    """Memory in MB, open files, threads, disk in MB.

    `anonymous_mb` is what the process itself holds, once the allocator has given back what it kept for later: each
    compaction leaves some 200 KB with it that nobody uses. `all_mb` is what the system shows, with mapped files.
    """
    shown = _status()["VmRSS"]
    _trim()
    status = _status()
    return {
        "at_s": round(time.monotonic(), 1),
        "anonymous_mb": int(status["RssAnon"].split()[0]) / 1024,
        "all_mb": int(shown.split()[0]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "disk_mb": sum(file.stat().st_size for file in path.rglob("*") if _is_file(file)) / 2**20,
    }


def _status() -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())


def _trim() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size >= 0
    except OSError:  # gone meanwhile: a store was compacted
        return False


def answers(index: LateInteractionIndex) -> dict[str, dict[str, float]]:
    return {
        query: {hit.passage_id: hit.score for hit in index.search(query, k=1000, principal=EVERYBODY)}
        for query in QUERIES
    }


def differences(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> int:
    """Passages that only one has, or whose scores differ by more than rounding."""
    return sum(
        1
        for query in QUERIES
        for name in one[query].keys() | other[query].keys()
        if abs(one[query].get(name, 1e9) - other[query].get(name, -1e9)) > 1e-4
    )


def run(folder: Path, seconds: float) -> dict[str, Any]:
    path, samples = folder / "soaked.lir", []
    with open_index(path) as index:
        soak = Soak(index, time.monotonic() + seconds)
        threads = [threading.Thread(target=soak.thread, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            try:
                samples.append(sample(path))
            except FileNotFoundError:
                continue
            time.sleep(min(seconds / 120, 15))
        for thread in threads:
            thread.join()
        problems = index.verify()
        told = answers(index)
    with open_index(path) as index:
        problems += index.verify()
        reopened = answers(index)
    gc.collect()
    with open_index(folder / "replayed.lir") as index:
        for log in soak.logs.values():
            for kind, name, step in log:
                write(index, kind, name, step)
        replayed = answers(index)
    with closing(sqlite3.connect(path / "audit.sqlite")) as log_file:
        kinds = dict(log_file.execute("SELECT kind, count(*) FROM event GROUP BY kind").fetchall())
    return {
        "seconds": seconds,
        "done": dict(soak.done),
        "errors": soak.errors,
        "retried": soak.retried,
        "problems": problems,
        "unrecorded": soak.done["search"] + 2 * len(QUERIES) - kinds["retrieval"],
        "after_reopening": differences(told, reopened),
        "against_replay": differences(told, replayed),
        "passages": len(told[QUERIES[0]]),
        "samples": samples,
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), float(sys.argv[2]))))
