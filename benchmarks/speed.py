"""Milliseconds of a whole search: beside LangChain's dense retriever, part by part, and with memory.

What is compared takes turns within one process, so that whatever else the machine does slows both alike.
"""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.rivals import chroma_retriever
from benchmarks.timing import interleaved, percentiles, ratio, ratios
from lir_agents import LateInteractionIndex, Turn
from lir_agents.arrays import Encoding
from lir_agents.encoding.base import QueryText
from lir_agents.evaluation import Dataset
from lir_agents.graph.candidates import Candidates, find_candidates
from lir_agents.graph.reading import Reading, read_query
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import token_maxima
from lir_agents.graph.view import look_at

SETS = ("mtrag_clapnq",)
PASSAGES = 10_000
PARTS = ("encode", "candidates", "gather and MaxSim")
_QUERIES = 200
_REMEMBERED = 20


def run(bench: Bench) -> None:
    """Three files: search, parts, memory."""
    if bench.standing("speed/search") is None or bench.standing("speed/parts") is None:
        with mixed(bench, passages_wanted(bench, PASSAGES)) as index:
            bench.write("speed/search", _search(index, questions(bench, _QUERIES)))
            bench.write("speed/parts", parts(index, questions(bench, _QUERIES)))
    for name in bench.chosen(SETS):
        if bench.standing("speed/memory") is None:
            bench.write("speed/memory", _memory(bench, name))


# ---------------------------------------------------------------- a whole search


def _search(index: LateInteractionIndex, queries: list[str]) -> dict[str, Any]:
    """`index.search`, the LangChain retriever over it, and langchain-chroma's dense retriever, k = 10."""
    from lir_agents.langchain import LateInteractionRetriever

    passages = index.stats()["live_passages"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        say(f"{passages:,} passages into langchain-chroma")
        chroma = chroma_retriever(index, Path(folder))
        retriever = LateInteractionRetriever(index=index, k=10)
        taken = interleaved(
            {
                "index.search": lambda query: index.search(query, k=10),
                "LateInteractionRetriever": retriever.invoke,
                "langchain-chroma": chroma.invoke,
            },
            queries,
        )
    return {
        "passages": passages,
        "queries": len(queries),
        "latency_ms": percentiles(taken),
        "against langchain-chroma": ratios(taken, "langchain-chroma"),
    }


def parts(index: LateInteractionIndex, queries: list[str]) -> dict[str, Any]:
    """The product's own parts, called by hand one after the other, beside the whole of them."""
    bare = _Parts(index, queries)
    taken = interleaved(
        {
            "search": lambda query: index.search(query, k=10),
            "encode": bare.encode,
            "candidates": bare.candidates,
            "gather and MaxSim": bare.score,
        },
        queries,
    )
    taken["parts"] = [sum(each) for each in zip(*(taken[name] for name in PARTS), strict=True)]
    return {
        "passages": index.stats()["live_passages"],
        "latency_ms": percentiles(taken),
        "search against its parts": ratio(taken, "search", "parts"),
    }


class _Parts:
    """One search by hand, without graph, policy, memory or log. What a part takes from the one before is there."""

    def __init__(self, index: LateInteractionIndex, queries: list[str]) -> None:
        self._rooms = index.rooms
        request = checked_request({"query": "anything"}, self._rooms.settings.search)
        self._view = look_at(self._rooms, request, self._rooms.policy.authorize(None, "search"))
        self._encoded = {query: self.encode(query) for query in queries}
        self._found = {query: self.candidates(query) for query in queries}

    def encode(self, query: str) -> Encoding:
        (encoding,) = self._rooms.encoder.encode_queries([QueryText(query)])
        return encoding

    def candidates(self, query: str) -> tuple[Reading, Candidates]:
        turn = read_query(self._rooms, query, self._view, self._encoded[query])
        return turn, find_candidates(self._rooms, turn, self._view, self._rooms.settings.search.first_stage_k)

    def score(self, query: str) -> object:
        turn, found = self._found[query]
        return token_maxima(self._rooms, [turn], found.rows)


# ---------------------------------------------------------------- what memory adds


def _memory(bench: Bench, name: str) -> dict[str, Any]:
    """The same searches without a thread, and in a thread that remembers twenty turns."""
    dataset = Dataset.load(bench.data / name)
    queries = [query.text for query in dataset.queries[: bench.limit or _QUERIES]]
    with bench.index(dataset) as index:
        said = list(chain.from_iterable(query.history for query in dataset.queries))[:_REMEMBERED]
        turns = [Turn(turn.role, turn.text) for turn in said]  # what was shown is of no matter here
        index.memory.forget(None, "bench")
        index.memory.remember(None, "bench", turns)
        taken = interleaved(
            {
                "without": lambda query: index.search(query, k=10),
                "with": lambda query: index.search(query, k=10, thread_id="bench"),
            },
            queries,
        )
        index.memory.forget(None, "bench")
    return {
        "dataset": dataset.name,
        "remembered_turns": len(turns),
        "queries": len(queries),
        "latency_ms": percentiles(taken),
        "added_ratio": ratio(taken, "with", "without")["ratio"] - 1,
    }
