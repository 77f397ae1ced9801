"""Writers that are killed, a disk that is full, a log that is held: nothing acknowledged is lost, nothing is
recorded by halves."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from lir_agents.audit import AuditEvent, AuditLog, verify_consistency, verify_inclusion
from lir_agents.errors import StoreError

WRITER = """
import os, sys
from lir_agents.audit import AuditEvent, AuditLog
with AuditLog.open(sys.argv[1], timeout_s=30.0) as log:
    number = 0
    while True:
        event = AuditEvent("retrieval", sys.argv[2], payload={"n": number})
        ids = [log.append(event, {"q": "x" * 300})] if number % 3 else log.append_many([event] * 3)
        os.write(1, ("".join(i + "\\n" for i in ids)).encode())
        number += 1
"""


def start(path: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE)


def test_four_writers_killed_again_and_again_lose_nothing_acknowledged(tmp_path):
    """In the default durability, and at moments that nobody chose."""
    path, acknowledged, chance = tmp_path / "audit.sqlite", set(), random.Random(7)
    checkpoints: list[tuple[int, bytes]] = []
    for round_ in range(4):
        writers = [start(path, f"w{round_}.{number}") for number in range(4)]
        first = [writer.stdout.readline() for writer in writers]  # all four are at work
        for writer in chance.sample(writers, 4):
            time.sleep(chance.uniform(0.0, 0.15))
            os.kill(writer.pid, signal.SIGKILL)
        for writer, line in zip(writers, first, strict=True):
            printed, _ = writer.communicate()
            acknowledged |= {entry for entry in (line + printed).decode().split("\n") if len(entry) == 32}
        with AuditLog.open(path) as log:
            checkpoints.append((log.size, log.root()))

    with AuditLog.open(path) as log:
        report = log.verify()
        report.raise_if_broken()
        events = log.events(limit=1_000_000)
        assert [event.position for event in events] == list(range(report.size))
        assert acknowledged
        assert acknowledged <= {event.event_id for event in events}
        assert len(events) - len(acknowledged) <= 4 * 4 * 3  # at most one batch of each writer was under way
        root = log.root()
        for size, then in checkpoints:
            assert verify_consistency(size, then, report.size, root, log.consistency_proof(size))
        for event_id in chance.sample(sorted(acknowledged), min(200, len(acknowledged))):
            proof = log.inclusion_proof(event_id)
            assert verify_inclusion(proof.leaf, proof.index, proof.size, proof.path, root)
        for name in {event.principal_id for event in events}:  # every writer's events in its own order
            numbers = [event.payload["n"] for event in events if event.principal_id == name]
            assert numbers == sorted(numbers)


def test_many_processes_may_make_the_log_at_once(tmp_path):
    writers = [start(tmp_path / "audit.sqlite", f"w{number}") for number in range(4)]
    try:
        ids = [writer.stdout.readline().decode().strip() for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        assert {log.get(event_id).principal_id for event_id in ids} == {"w0", "w1", "w2", "w3"}
        assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


LIMITED = """
import resource, sys
from lir_agents.audit import AuditEvent, AuditLog
from lir_agents.errors import StoreError
with AuditLog.open(sys.argv[1], durability="process") as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    done = []
    try:
        while True:
            done += log.append_many([AuditEvent("decision", payload={"x": "y" * 1000})] * 7)
    except StoreError as error:
        assert (error.store, error.operation, error.retryable) == ("audit", "append", False), error
    assert log.size == len(done) and log.verify().ok
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    done.append(log.append(AuditEvent("decision")))
    print(*done)
"""


def test_a_file_that_cannot_grow_refuses_and_recovers(tmp_path):
    path = tmp_path / "audit.sqlite"
    ran = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    ids = ran.stdout.split()
    with AuditLog.open(path) as log:
        assert [event.event_id for event in log.events(limit=100_000)] == ids
        assert log.verify().ok


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_and_the_log_stays_whole(small_disk):
    path, ids = small_disk / "audit.sqlite", []
    with AuditLog.open(path) as log:
        with pytest.raises(StoreError) as refused:  # noqa: PT012
            while True:
                ids += log.append_many([AuditEvent("decision", payload={"x": "y" * 2000})] * 5)
        assert (refused.value.store, refused.value.operation) == ("audit", "append")
        assert not refused.value.retryable
        for _ in range(3):
            with pytest.raises(StoreError):
                log.append_many([AuditEvent("decision", payload={"x": "y" * 50_000})] * 9)
        assert [event.event_id for event in log.events(limit=10_000)] == ids
        assert log.verify().ok

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    with AuditLog.open(path) as log:
        assert log.verify().ok
        ids.append(log.append(AuditEvent("decision")))
        assert [event.event_id for event in log.events(limit=10_000)] == ids


def test_a_log_on_a_read_only_disk_can_be_verified(small_disk):
    path = small_disk / "audit.sqlite"
    with AuditLog.open(path) as log:
        log.append(AuditEvent("decision"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with AuditLog.open(path, read_only=True) as log:
        assert log.verify().ok
        with pytest.raises(StoreError):
            log.append(AuditEvent("decision"))
    with pytest.raises(StoreError), AuditLog.open(path) as log:
        log.append(AuditEvent("decision"))


def test_a_full_disk_refuses_to_make_a_log_and_leaves_nothing(small_disk):
    (small_disk / "filler").write_bytes(b"x" * (1 << 20))
    with pytest.raises(StoreError):
        AuditLog.open(small_disk / "audit.sqlite")
    assert [file.name for file in small_disk.iterdir()] == ["filler"]


def test_a_held_log_is_retryable_for_every_waiting_thread(tmp_path):
    path, errors = tmp_path / "audit.sqlite", []

    def append() -> None:
        try:
            log.append(AuditEvent("decision"))
        except StoreError as error:
            errors.append(error)

    with AuditLog.open(path, timeout_s=0.05) as log:
        log.append(AuditEvent("decision"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            threads = [threading.Thread(target=append) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(errors) == len({id(error) for error in errors}) == 6
        assert all(error.retryable and error.operation == "append" for error in errors)
        assert log.size == 1
        log.append(AuditEvent("decision"))
        assert log.verify().ok


def test_erased_bytes_wait_for_a_reader_and_say_so(tmp_path):
    path = tmp_path / "audit.sqlite"
    with AuditLog.open(path, timeout_s=0.05) as log:
        event_id = log.append(AuditEvent("retrieval"), {"query": "theerasedwords"})
        lines = log.export()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event").fetchone()
            with pytest.raises(StoreError, match="compact") as refused:
                log.erase_sealed([event_id])
            assert refused.value.retryable
        log.compact()
        assert log.get(event_id).sealed == "erased"
        assert b"theerasedwords" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert len(list(lines)) == 1


def test_an_interrupted_leader_leaves_nobody_waiting(tmp_path):
    """What raises inside the transaction reaches the leader; whoever queued behind is refused, not lost."""
    refused: list[StoreError] = []

    def clock() -> int:
        if log_ready.is_set():
            raise KeyboardInterrupt
        return 0

    def follow() -> None:
        try:
            log.append(AuditEvent("decision"))
        except (StoreError, KeyboardInterrupt) as error:
            refused.append(error)

    log_ready = threading.Event()
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=clock) as log:
        log.append(AuditEvent("decision"))
        log_ready.set()
        log._database.writing.acquire()
        threads = [threading.Thread(target=follow) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(log._writer._waiting) < 4:
            time.sleep(0.001)
        log._database.writing.release()
        for thread in threads:
            thread.join(timeout=10)
        assert len(refused) == 4
        assert sum(isinstance(error, KeyboardInterrupt) for error in refused) == 1
        log_ready.clear()
        log.append(AuditEvent("decision"))
        assert log.size == 2
        assert log.verify().ok
