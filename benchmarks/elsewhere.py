"""A rival that cannot share this environment, in a process of its own: a call goes over a pipe and waits.

`rerankers` 0.10 builds its ColBERT model in a way that transformers 5 refuses, and sentence-transformers 6 needs
transformers 5. Its environment lies over this one: its own transformers 4, everything else (torch too) from here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import say
from lir_agents.encoding.bundled import bundled_folder

RERANKERS = ("rerankers>=0.10,<0.11", "transformers>=4.45,<5")

_WORKER = """
import json, sys
from rerankers import Reranker
ranker = Reranker(sys.argv[1], model_type="colbert", device="cpu", verbose=0)
out = sys.stdout
sys.stdout = sys.stderr
print("ready", file=out, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    best = ranker.rank(query=asked["query"], docs=asked["passages"]).top_k(asked["k"])
    print(json.dumps([one.document.doc_id for one in best]), file=out, flush=True)
"""


class UnavailableError(Exception):
    """The environment could not be made; the message says why."""


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment over this one, made once.

    Raises:
        UnavailableError: It could not be made.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = folder / "made"
    if done.is_file():
        return python
    say(f"making an environment for {', '.join(packages)}")
    _ran([sys.executable, "-m", "venv", "--clear", str(folder)])
    own = _ran([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    (Path(own) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    _ran([str(python), "-m", "pip", "install", "--quiet", *packages])
    done.touch()
    return python


@contextmanager
def rerankers(folder: Path, *, k: int) -> Iterator[Callable[[str, list[str]], object]]:
    """`rerank(query, passages)` of the library `rerankers` with the bundled model.

    It adds a projection with random weights to a model that has none: its time is right, its order is not.

    Raises:
        UnavailableError: There is no environment for it, or it did not start.
    """
    python = environment(folder, RERANKERS)
    command = [str(python), "-c", _WORKER, str(bundled_folder())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        asking, answers = worker.stdin, worker.stdout
        if answers.readline() != "ready\n":
            raise UnavailableError("rerankers did not start")

        def rerank(query: str, passages: list[str]) -> object:
            asking.write(json.dumps({"query": query, "passages": passages, "k": k}) + "\n")
            asking.flush()
            return json.loads(answers.readline())

        try:
            yield rerank
        finally:
            asking.close()


def _ran(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else " ".join(command))
    return done.stdout
