"""Two writers: of two processes the second is refused, and threads of one leave the index as if they had queued."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lir_agents import Document, IndexLocked, LateInteractionIndex
from tests.hashed_encoder import HashedEncoder

ROOT = Path(__file__).resolve().parents[2]
OTHER = """
import sys
from lir_agents import Document, LateInteractionIndex
from lir_agents.errors import IndexLocked
from tests.hashed_encoder import HashedEncoder
try:
    with LateInteractionIndex.open(sys.argv[1], encoder=HashedEncoder()) as index:
        index.add([Document(id="theirs", text="Written by another process.")])
    print("written")
except IndexLocked as error:
    print("refused", error.retryable, bool(error.remedy))
"""


def other(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_second_process_is_refused_while_the_first_writes_and_let_in_afterwards(quick_path):
    path = quick_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        index.add([Document(id="ours", text="Written by this process.")])
        assert other(path) == "refused True True"
        with pytest.raises(IndexLocked):
            LateInteractionIndex.open(path, encoder=HashedEncoder())
        index.add([Document(id="more", text="Written by this process, too.")])
        assert index.verify() == []
    assert other(path) == "written"
    with LateInteractionIndex.open(path, encoder=HashedEncoder()) as index:
        assert sorted(hit.document_id for hit in index.search("written")) == ["more", "ours", "theirs"]
        assert index.verify() == []


def test_threads_that_write_the_same_documents_leave_each_of_them_whole(quick_path):
    """Eight threads add, change, delete and erase twelve documents: each is one thread's word, never a mixture."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    with LateInteractionIndex.open(quick_path / "i.lir", encoder=HashedEncoder()) as index:

        def write(number: int) -> None:
            chance = random.Random(number)
            for edition in range(12):
                name = f"d{chance.randrange(12)}"
                lines = "\n\n".join(f"Line {line} by {number} in edition {edition}. " * 8 for line in range(5))
                index.add([Document(id=name, text=lines, metadata={"by": number, "edition": edition})])
                if chance.random() < 0.2:
                    (index.delete if chance.random() < 0.7 else index.erase)([f"d{chance.randrange(12)}"])

        threads = [threading.Thread(target=guarded(lambda n=number: write(n))) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert index.verify() == []
        for hit in index.search("line", k=1000):
            assert f"by {hit.metadata['by']} in edition {hit.metadata['edition']}." in hit.text
            assert index.get(hit.document_id).info.version == hit.version
        assert index.audit.verify().ok
