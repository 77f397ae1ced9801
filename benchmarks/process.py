"""What a process pays once, each in a fresh one: importing, the first answer, memory over 100,000 passages."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.rivals import chroma_retriever

PASSAGES = 10_000
LARGE = 100_000
_ROUNDS = 9
_QUERIES = 150
_ROOT = Path(__file__).parent.parent

_IMPORT = """
import time, json
start = time.perf_counter()
import lir_agents
taken = (time.perf_counter() - start) * 1000
print(json.dumps({"import": taken, "torch": float("torch" in __import__("sys").modules)}))
"""
_ANSWER = """
import time, json, sys
start = time.perf_counter()
from lir_agents import LateInteractionIndex
imported = time.perf_counter()
with LateInteractionIndex.open(sys.argv[1], create=False) as index:
    opened = time.perf_counter()
    index.search(sys.argv[2], k=10)
    found = time.perf_counter()
parts = {"import": imported - start, "open": opened - imported, "first answer": found - opened}
print(json.dumps({name: seconds * 1000 for name, seconds in parts.items()}))
"""
_CHROMA = """
import time, json, sys
start = time.perf_counter()
from benchmarks.rivals import chroma_store
from pathlib import Path
store = chroma_store(Path(sys.argv[1])).as_retriever(search_kwargs={"k": 10})
opened = time.perf_counter()
store.invoke(sys.argv[2])
found = time.perf_counter()
print(json.dumps({"import and open": (opened - start) * 1000, "first answer": (found - opened) * 1000}))
"""
_MEMORY = """
import json, sys
from benchmarks.resident import resident
from lir_agents import LateInteractionIndex
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
encoder = open_encoder()
encoder.encode_queries([QueryText("a first text loads the model")])
import chromadb, langgraph.graph
before = resident()
with LateInteractionIndex.open(sys.argv[1], create=False, encoder=encoder) as index:
    opened = resident()
    for query in json.load(open(sys.argv[2])):
        index.search(query, k=10)
    print(json.dumps({"before": before, "opened": opened, "searched": resident()}))
"""


def run(bench: Bench) -> None:
    """Three files: import, answer, memory."""
    rounds = bench.limit or _ROUNDS
    if bench.standing("process/import") is None:
        found = [_python(_IMPORT) for _ in range(rounds)]
        bench.write("process/import", {"import_ms": _summary(found)["import"], "torch": bool(found[0]["torch"])})
    if bench.standing("process/answer") is None:
        bench.write("process/answer", _answer(bench, rounds))
    if bench.standing("process/memory") is None:
        bench.write("process/memory", _memory(bench))


def _answer(bench: Bench, rounds: int) -> dict[str, Any]:
    """From a process's start to its first answer, in turn with langchain-chroma over the same passages."""
    (query,) = questions(bench, 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with mixed(bench, passages_wanted(bench, PASSAGES)) as index:
            path, held = index.path, index.stats()["live_passages"]
            chroma_retriever(index, Path(folder))
        say(f"first answers of fresh processes over {held:,} passages")
        own, rival = [], []
        for _ in range(rounds):
            own.append(_python(_ANSWER, str(path), query))
            rival.append(_python(_CHROMA, folder, query))
    whole = [np.asarray([sum(one.values()) for one in each]) for each in (own, rival)]
    return {
        "passages": held,
        "lir_agents_ms": _summary(own),
        "langchain_chroma_ms": _summary(rival),
        "whole_ms": {"lir_agents": float(np.median(whole[0])), "langchain-chroma": float(np.median(whole[1]))},
        "against langchain-chroma": float(np.median(whole[0] / whole[1])),
    }


def _memory(bench: Bench) -> dict[str, Any]:
    """Resident bytes after the model is loaded, after opening, and after searches; of files or not."""
    with mixed(bench, passages_wanted(bench, LARGE)) as index:
        path, held, tokens = index.path, index.stats()["live_passages"], index.stats()["token_bytes"]
    queries = questions(bench, _QUERIES)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(queries, file)
        file.flush()
        found = _python(_MEMORY, str(path), file.name)
    grown = {name: found["searched"][name] - found["before"][name] for name in found["before"]}
    return {"passages": held, "queries": len(queries), "token_bytes": tokens, "bytes": found, "grown": grown}


def _python(code: str, *arguments: str) -> dict[str, Any]:
    """The last line of a fresh interpreter, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def _summary(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: dict(
            zip(
                ("q1", "p50", "q3"), np.percentile([one[name] for one in found], (25, 50, 75)).tolist(), strict=True
            )
        )
        for name in found[0]
    }
