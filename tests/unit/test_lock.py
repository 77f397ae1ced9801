"""One owner per index directory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lir_agents.errors import IndexLocked, StoreError
from lir_agents.stores.lock import IndexLock

HOLD = """
import sys, time
from pathlib import Path
from lir_agents.stores.lock import IndexLock
lock = IndexLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def holder(path: Path):
    """Another process that holds the lock; killed, not asked, at the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_says_who_holds_it_and_is_given_up_on_close(tmp_path):
    path = tmp_path / "lock"
    with IndexLock(path) as lock:
        assert lock.held
        note = json.loads(path.read_text())
        assert (note["pid"], note["host"]) == (os.getpid(), socket.gethostname())
    assert not lock.held
    assert path.read_bytes() == b""
    lock.close()
    with IndexLock(path):
        pass


def test_a_second_handle_of_this_process_is_refused(tmp_path):
    path = tmp_path / "lock"
    with IndexLock(path):
        before = path.read_bytes()
        with pytest.raises(IndexLocked, match="this very process") as caught:
            IndexLock(path)
        assert caught.value.remedy
        assert path.read_bytes() == before
    with IndexLock(path):
        pass


def test_another_process_is_named_and_its_death_frees_the_lock(tmp_path):
    path = tmp_path / "lock"
    with holder(path) as other:
        with pytest.raises(IndexLocked, match=f"process {other.pid} on ") as caught:
            IndexLock(path)
        assert caught.value.retryable
        assert "read-only" in caught.value.remedy
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with IndexLock(path) as lock:
            assert lock.held
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_note_that_makes_no_sense_still_refuses_and_never_counts_as_a_lock(tmp_path):
    path = tmp_path / "lock"
    path.write_text("{")
    with IndexLock(path) as lock:
        for note in ("", "{", "[1]", "null"):
            path.write_text(note)
            with pytest.raises(IndexLocked, match="another process"):
                IndexLock(path)
        assert lock.held


def test_a_forked_child_neither_holds_nor_drops_the_lock(tmp_path):
    path = tmp_path / "lock"
    lock = IndexLock(path)
    child = os.fork()
    if child == 0:  # pragma: no cover - the child reports by its exit status
        status = 9
        try:
            assert not lock.held
            lock.close()
            try:
                IndexLock(path)
                status = 1
            except IndexLocked:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(IndexLocked):
        IndexLock(path)
    lock.close()


def test_a_child_that_lives_on_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "lock"
    lock = IndexLock(path)
    child = os.fork()
    if child == 0:  # pragma: no cover
        time.sleep(60)
        os._exit(0)
    try:
        lock.close()
        deadline = time.monotonic() + 5
        while True:  # the child lets go as its first act
            try:
                IndexLock(path).close()
                break
            except IndexLocked:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("make", ["no directory", "directory", "link"])
def test_what_cannot_be_a_lock_file_is_refused(tmp_path, make):
    path = tmp_path / "lock"
    if make == "no directory":
        path = tmp_path / "absent" / "lock"
    elif make == "directory":
        path.mkdir()
    else:
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    with pytest.raises(StoreError) as caught:
        IndexLock(path)
    assert caught.value.remedy
    assert not isinstance(caught.value, IndexLocked)
    if make == "link":
        assert (tmp_path / "target").read_text() == "precious"
