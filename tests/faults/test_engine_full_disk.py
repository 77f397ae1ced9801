"""A full disk: ingestion fails cleanly, a search that cannot be recorded returns nothing, space mends it all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

COMMON = """
import os, resource, sys
from pathlib import Path
from lir_agents import Document, LateInteractionIndex
from lir_agents.errors import LirError, StoreError
from tests.hashed_encoder import HashedEncoder

path = Path(sys.argv[1])

def documents(start, count):
    return [Document(id=f"d{i}", text=f"Rule {i} is about leave. " + f"word{i} pay travel. " * 200)
            for i in range(start, start + count)]

def answers(index):
    return [(hit.passage_id, hit.score) for hit in index.search("rule about leave", k=1000)]

def refused(call, *stores):
    try:
        call()
    except StoreError as error:
        assert not stores or error.store in stores, error
        return error
    raise SystemExit("the limit was not felt")
"""

# Files may not grow beyond what they have: every store meets its limit in turn as the budget rises.
LIMITED = (
    COMMON
    + """
encoder = HashedEncoder()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with LateInteractionIndex.open(path, encoder=encoder) as index:
    index.add(documents(0, 4))
    before = answers(index)
    felt = set()
    for limit in (60_000, 300_000, 700_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            index.add(documents(100, 30))
        except StoreError as error:
            felt.add((error.store, error.operation))
            assert error.remedy, error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        if index.get("d100") is not None:
            break
        assert answers(index) == before, limit
    assert felt, "the limit was never felt"
    print("felt", sorted(felt))
    report = index.add(documents(100, 30))
    assert report.added + report.unchanged == 30 and not report.failed, report
with LateInteractionIndex.open(path, create=False, encoder=encoder) as index:
    assert index.verify() == []
    assert index.stats()["documents"] == 34
"""
)

FULL = (
    COMMON
    + """
def fill(leave_bytes):
    ballast = path.parent / "ballast"
    free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
    with ballast.open("ab") as file:
        file.truncate(0)
        try:
            for _ in range(max(0, free - leave_bytes) // 4096):
                os.write(file.fileno(), bytes(4096))
        except OSError:
            pass
    return ballast

encoder = HashedEncoder()
with LateInteractionIndex.open(path, encoder=encoder) as index:
    index.add(documents(0, 4))
    before = answers(index)
    felt = set()
    for leave in (0, 500_000, 2_000_000):
        ballast = fill(leave)
        error = refused(lambda: index.add(documents(100, 200)))
        assert error.remedy, error
        felt.add(error.store)
        ballast.unlink()
        assert answers(index) == before, leave
        assert index.get("d100") is None
    print("felt", sorted(felt))
    ballast = fill(0)
    events = None
    for _ in range(200):  # the log's own free pages are used up first
        try:
            index.search("rule about leave")
        except StoreError as error:
            assert error.store == "audit", error
            break
    else:
        raise SystemExit("the full disk was not felt by the audit log")
    refused(lambda: index.delete(["d0"]), "audit")
    assert index.rooms.catalog.document("d0") is not None
    ballast.unlink()
    assert answers(index) == before
    assert index.add(documents(100, 20)).added == 20
with LateInteractionIndex.open(path, create=False, encoder=encoder) as index:
    assert index.verify() == []
    assert index.stats()["documents"] == 24
ballast = fill(0)
try:
    LateInteractionIndex.open(path, create=False, encoder=encoder).close()
except LirError as error:
    assert error.remedy, error
ballast.unlink()
with LateInteractionIndex.open(path, create=False, encoder=encoder) as index:
    assert index.verify() == []
print("whole")
"""
)


def execute(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files_that_may_not_grow_refuse_the_batch_and_recover(tmp_path):
    shown = execute(sys.executable, "-c", LIMITED, str(tmp_path / "i.lir"))
    assert shown.startswith("felt [(")


def may_mount() -> bool:
    """Whether this user may mount a small file system in a name space of its own."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(trial, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounting a small file system is not allowed here")
def test_a_disk_that_is_full_fails_cleanly_and_space_mends_it(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=24m tmpfs "$1" && exec "$2" -c "$3" "$1/i.lir"'
    shown = execute("unshare", "-rm", "sh", "-c", mounted, "sh", str(disk), sys.executable, FULL)
    felt, whole = shown.splitlines()
    assert len(felt.split(",")) >= 2  # more than one store met the full disk
    assert whole == "whole"
