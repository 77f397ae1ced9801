"""The token store under threads, a full disk and a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec
from lir_agents.stores.tokens import LmdbTokens

DIM = 16
CODEC = TokenCodec(DIM, 8)


def stamped(rows: list[int], stamp: int, length: int = 40) -> tuple[np.ndarray, PackedTokens, np.ndarray]:
    """Entries in which every byte tells row and stamp apart, so that a torn read shows."""
    marks = [np.full((length, DIM), (row * 7 + stamp) % 256, np.uint8) for row in rows]
    for mark in marks:
        mark[:, ::2] = stamp
    tokens = PackedTokens.pack(marks, CODEC)
    return np.array(rows, np.int64), tokens, np.eye(DIM, dtype=np.float32)[[row % DIM for row in rows]]


def test_eight_readers_see_whole_entries_while_one_writes_deletes_and_compacts(tmp_path: Path) -> None:
    store = LmdbTokens.open(tmp_path, CODEC, DIM, map_bytes=1 << 20)
    rows = list(range(40))
    store.put(*stamped(rows, 1))
    stop, failures, reads = threading.Event(), [], [0] * 8

    def read(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            while not stop.is_set():
                asked = rng.integers(0, 45, 20)
                got = store.gather(asked)
                for i, row in enumerate(asked.tolist()):
                    part = slice(got.offsets[i], got.offsets[i + 1])
                    data, stamps = got.data[part, 1::2], np.unique(got.data[part, ::2])
                    assert len(data) in (0, 40)
                    if len(data):
                        assert len(stamps) == 1
                        assert (data == (row * 7 + int(stamps[0])) % 256).all()
                store.pooled(asked)
                reads[number] += 1
                time.sleep(0.002)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for stamp in range(2, 16):
        store.put(*stamped(rows, stamp))
        store.delete(np.array(rows[stamp : stamp + 5]))
        if stamp % 7 == 0:
            store.compact()
    store.put(*stamped(rows, 50))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert min(reads) > 0
    assert np.unique(store.gather(np.array(rows)).data[:, ::2]).tolist() == [50]
    store.close()


def run(script: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, **options
    )


PRELUDE = f"""
    import numpy as np, sys
    from pathlib import Path
    from lir_agents.arrays import PackedTokens
    from lir_agents.codes import TokenCodec
    from lir_agents.errors import StoreError
    from lir_agents.stores.tokens import LmdbTokens
    store = LmdbTokens.open(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(PATH), TokenCodec({DIM}, 8), {DIM})
    def put(row, length):
        store.put(np.array([row]), PackedTokens.pack([np.full((length, {DIM}), row % 100, np.uint8)],
                  TokenCodec({DIM}, 8)), np.eye({DIM}, dtype=np.float32)[:1])
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files, which only POSIX systems can")
def test_a_full_disk_fails_the_write_and_keeps_what_was_there(tmp_path: Path) -> None:
    script = (
        f"PATH = {str(tmp_path)!r}\n"
        + textwrap.dedent(PRELUDE)
        + textwrap.dedent("""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        put(1, 100)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            put(2, 200_000)
        except StoreError as error:
            print(error.store, error.operation, "disk space" in error.remedy)
        print(store.rows().tolist(), len(store.gather(np.array([1, 2])).data))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        put(2, 200)
        print(store.rows().tolist(), store.verify())
    """)
    )
    out, _ = run(script).communicate(timeout=60)
    assert out.splitlines() == ["tokens put True", "[1] 100", "[1, 2] []"]


def test_a_killed_writer_loses_nothing_it_was_told_is_there(tmp_path: Path) -> None:
    script = (
        f"PATH = {str(tmp_path)!r}\n"
        + textwrap.dedent(PRELUDE)
        + textwrap.dedent("""
        for row in range(10_000):
            put(row, 50 + row % 300)
            print(row, flush=True)
            if row % 10 == 9:
                store.delete(np.array([row - 5]))
            if row % 25 == 24:
                store.compact()
    """)
    )
    for pause in (0.02, 0.05, 0.11):
        for file in tmp_path.iterdir():
            file.unlink()
        writer = run(script)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        store = LmdbTokens.open(tmp_path, CODEC, DIM)
        held = set(store.rows().tolist())
        deleted = set(range(4, acknowledged + 1, 10))
        assert held >= set(range(acknowledged + 1)) - deleted
        assert store.verify() == []
        store.put(*stamped([7], 3))
        assert store.gather(np.array([7])).lengths.tolist() == [40]
        store.close()
