"""Milliseconds: a whole search beside LangChain's dense retriever, what memory adds, and the MaxSim kernel alone.

What is compared takes turns within one process, so that whatever else the machine does slows both alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, say
from lir_agents import LateInteractionIndex, Turn
from lir_agents.arrays import Rows
from lir_agents.encoding.bundled import bundled_folder
from lir_agents.evaluation import Dataset
from lir_agents.ranking.kernels import best_kernel
from lir_agents.ranking.maxsim import maxsim
from lir_agents.ranking.quantise import pack, quantise_int8

SETS = ("mtrag_clapnq",)
_QUERIES = 100
_REMEMBERED = 20
_ROUNDS = 200
_BATCH = 1000


def run(bench: Bench) -> None:
    """Three files: search, memory, maxsim."""
    for name in bench.chosen(SETS):
        for what, measure in (("search", _search), ("memory", _memory)):
            if bench.standing(f"speed/{what}") is None:
                bench.write(f"speed/{what}", measure(bench, name))
    if bench.standing("speed/maxsim") is None:
        bench.write("speed/maxsim", _kernels(bench))


def interleaved(systems: Mapping[str, Callable[[Any], object]], inputs: Sequence[Any]) -> dict[str, list[float]]:
    """Milliseconds of every call; for each input every system once, in an order that turns round each time."""
    for call in systems.values():
        call(inputs[0])
    taken: dict[str, list[float]] = {name: [] for name in systems}
    order = list(systems.items())
    for given in inputs:
        for name, call in order:
            start = time.perf_counter()
            call(given)
            taken[name].append((time.perf_counter() - start) * 1000)
        order = order[::-1]
    return taken


def percentiles(taken: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"p50": statistics.median(values), "p95": float(np.percentile(values, 95))}
        for name, values in taken.items()
    }


# ---------------------------------------------------------------- a whole search


def _search(bench: Bench, name: str) -> dict[str, Any]:
    """`index.search`, the LangChain retriever over it, and langchain-chroma's dense retriever, k = 10."""
    from lir_agents.langchain import LateInteractionRetriever

    dataset = Dataset.load(bench.data / name)
    queries = [query.text for query in dataset.queries[: bench.limit or _QUERIES]]
    with bench.index(dataset) as index, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
        passages = [passage.text for passage in index.rooms.catalog.passages(rows)]
        say(f"{name}: {len(passages):,} passages into langchain-chroma")
        chroma = _chroma_retriever(index, rows, passages, folder)
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
        "dataset": dataset.name,
        "passages": len(passages),
        "queries": len(queries),
        "latency_ms": percentiles(taken),
    }


def _chroma_retriever(index: LateInteractionIndex, rows: Rows, passages: list[str], folder: str) -> Any:
    """A dense retriever over the same passages and the same model, as one writes it with LangChain.

    The passages' vectors are the index's own: the model that LangChain asks for the query made them.
    """
    import chromadb
    from langchain_chroma import Chroma
    from langchain_core.embeddings import Embeddings
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(bundled_folder()), device="cpu")

    class SentenceEmbeddings(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector.tolist() for vector in model.encode(texts, show_progress_bar=False)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    client = chromadb.PersistentClient(folder)
    collection = client.create_collection("bench", metadata={"hnsw:space": "cosine"})
    vectors = index.rooms.tokens.pooled(rows)
    for start in range(0, len(rows), _BATCH):
        part = slice(start, start + _BATCH)
        ids = [str(row) for row in rows[part].tolist()]
        collection.add(ids=ids, embeddings=vectors[part], documents=passages[part])
    store = Chroma("bench", SentenceEmbeddings(), client=client)
    return store.as_retriever(search_kwargs={"k": 10})


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
    measured = percentiles(taken)
    return {
        "dataset": dataset.name,
        "remembered_turns": len(turns),
        "queries": len(queries),
        "latency_ms": measured,
        "added_ratio": measured["with"]["p50"] / measured["without"]["p50"] - 1,
    }


# ---------------------------------------------------------------- the kernel


def _kernels(bench: Bench) -> dict[str, Any]:
    """32 query tokens against 100 passages of 150 tokens: whole scoring, and the bare byte product in it."""
    return {
        "query_tokens": 32,
        "passages": 100,
        "passage_tokens": 150,
        "kernel": best_kernel(),
        "latency_ms": {str(dim): _kernel(dim, bench.limit or _ROUNDS) for dim in (128, 384)},
    }


def _kernel(dim: int, rounds: int) -> dict[str, dict[str, float]]:
    import torch
    from sentence_transformers.util import maxsim as reference

    draw = np.random.default_rng(0)
    query = _unit(draw.normal(size=(32, dim)))
    matrices = [_unit(draw.normal(size=(150, dim))) for _ in range(100)]
    packed, exact = pack(matrices), pack(matrices, quantise=False)
    documents = [torch.from_numpy(matrix) for matrix in matrices]
    asked = torch.from_numpy(query)
    data, bytes_of_query = torch.from_numpy(packed.data), torch.from_numpy(quantise_int8(query)[0])
    taken = interleaved(
        {
            "maxsim, int8": lambda _: maxsim(query, packed),
            "maxsim, float32": lambda _: maxsim(query, exact),
            "sentence-transformers": lambda _: reference([asked], documents),
            "bare int8 product": lambda _: torch._int_mm(data, bytes_of_query.T),
        },
        range(rounds),
    )
    return percentiles(taken)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
