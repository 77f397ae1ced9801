"""A process that ingests and is killed. It loads the libraries once and forks for every run it is told to make.

``python -m tests.faults.engine_worker`` reads one JSON object per line, ``{"path", "die_at"}``, and writes the
run's process id, then one number per committed batch (documents done so far), then ``end STATUS``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lir_agents import Document, LateInteractionIndex
from lir_agents.config import Settings
from lir_agents.engine import LateInteractionIndex as _loaded  # noqa: F401 - loads everything before the fork
from tests.hashed_encoder import HashedEncoder

SETTINGS = Settings(ingest={"batch_documents": 4})
GONE = "gone/erased"
SECRET = "the quetzal sleeps at noon"


def base() -> Iterator[Document]:
    """What is in the index before the run that is killed."""
    yield from (_document(i, edition=1) for i in range(0, 40, 2))
    yield Document(id="gone/deleted", text="Whoever reads this reads the past.")
    yield Document(id=GONE, text=f"Nobody must know that {SECRET}.")


def work() -> list[Document]:
    """What the run adds: ten unchanged, ten changed and twenty new documents, of one to four passages."""
    return [_document(i, edition=2) for i in range(40)]


def _document(i: int, edition: int) -> Document:
    shown = edition if i % 4 == 0 else 0
    lines = [
        f"Rule {i} part {part} of edition {shown} is about leave, pay and travel." for part in range(3 + i % 20)
    ]
    return Document(id=f"rule/{i:02}", title=f"Rule {i}", text="\n\n".join(lines), metadata={"edition": shown})


def run(path: Path, die_at: int | None = None) -> None:
    """The whole run; made again after a kill, it does what is left to do."""
    with LateInteractionIndex.open(path, encoder=HashedEncoder(), settings=SETTINGS) as index:
        if die_at is not None:
            _die_after_record(index, die_at)
        index.add(work(), progress=lambda documents, passages: print(documents, flush=True))
        index.delete(["gone/deleted"])
        index.erase([GONE])


def _die_after_record(index: LateInteractionIndex, count: int) -> None:
    """Dies right after the n-th record is on disk: what it speaks of has not become visible yet."""
    left = [count]

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*arguments: Any) -> Any:
            recorded = write(*arguments)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return recorded

        return written

    index.audit.append = dying(index.audit.append)
    index.audit.append_many = dying(index.audit.append_many)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if not child:
            try:
                run(Path(told["path"]), told.get("die_at"))
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("end", status, flush=True)


if __name__ == "__main__":
    main()
