"""Late interaction that encodes its candidates anew for every question, beside a search over stored vectors.

Every rival gets the 100 nearest passages by the same model's pooled vectors, and what it encodes and scores of them
is written as its documentation says. The product searches by both its lists, fuses, checks access and records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.bench import Bench, say
from benchmarks.corpus import mixed, passages_wanted, questions
from benchmarks.elsewhere import UnavailableError, rerankers
from benchmarks.rivals import multi_vector_encoder
from benchmarks.timing import interleaved, percentiles, ratios
from lir_agents import LateInteractionIndex
from lir_agents.encoding.bundled import bundled_folder

PASSAGES = 10_000
_QUERIES = 10
_CANDIDATES = 100
_K = 10

Rerank = Callable[[str, list[str]], object]


def run(bench: Bench) -> None:
    """One file."""
    if bench.standing("rerankers/search") is not None:
        return
    with ExitStack() as opened:
        index = opened.enter_context(mixed(bench, passages_wanted(bench, PASSAGES)))
        rivals, left_out = _rivals(bench, opened)
        measured = _measure(index, rivals, questions(bench, _QUERIES))
        bench.write("rerankers/search", measured | {"left_out": left_out})


def _measure(index: LateInteractionIndex, rivals: Mapping[str, Rerank], queries: Sequence[str]) -> dict[str, Any]:
    """A round asks every rival one question, and the product all of them: a warm search is what is compared."""
    near = _Nearest(index)

    def search(query: str) -> None:
        at = queries.index(query)
        for one in [*queries[at:], *queries[:at]]:
            index.search(one, k=_K)

    systems: dict[str, Callable[[str], object]] = {"index.search": search}
    for name, rerank in rivals.items():
        systems[name] = lambda query, rerank=rerank: rerank(query, near.passages(query))
    say(f"{len(queries)} questions, {_CANDIDATES} candidates each: {', '.join(systems)}")
    taken = interleaved(systems, queries)
    taken["index.search"] = [whole / len(queries) for whole in taken["index.search"]]
    return {
        "passages": index.stats()["live_passages"],
        "candidates": _CANDIDATES,
        "queries": len(queries),
        "latency_ms": percentiles(taken),
        "against index.search": ratios(taken, "index.search"),
    }


class _Nearest:
    """The first stage that the rivals' documentation shows: the nearest by the pooled vectors of a model."""

    def __init__(self, index: LateInteractionIndex) -> None:
        from sentence_transformers import SentenceTransformer

        rows = np.flatnonzero(index.rooms.catalog.live()).astype(np.int64)
        self._texts = [passage.text for passage in index.rooms.catalog.passages(rows)]
        self._vectors = index.rooms.tokens.pooled(rows)
        self._model = SentenceTransformer(str(bundled_folder()), device="cpu")

    def passages(self, query: str) -> list[str]:
        from sentence_transformers.util import semantic_search

        asked = self._model.encode(query, show_progress_bar=False)
        (hits,) = semantic_search(asked, self._vectors, top_k=_CANDIDATES)
        return [self._texts[int(hit["corpus_id"])] for hit in hits]


# ---------------------------------------------------------------- rivals


def _rivals(bench: Bench, opened: ExitStack) -> tuple[dict[str, Rerank], dict[str, str]]:
    """Every rival that runs here, and why the others do not."""
    made: dict[str, Rerank] = {"MultiVectorEncoder": _multi_vector()}
    left_out: dict[str, str] = {}
    try:
        made["rerankers"] = opened.enter_context(rerankers(bench.indexes / "rerankers.env", k=_K))
    except UnavailableError as error:
        left_out["rerankers"] = str(error)
    if find_spec("llama_index.postprocessor") and find_spec("llama_index.postprocessor.colbert_rerank"):
        made["LlamaIndex ColbertRerank"] = _colbert_rerank()
    else:
        left_out["LlamaIndex ColbertRerank"] = "not installed: pip install '.[bench]'"
    for name, why in left_out.items():
        say(f"{name}: left out, {why}")
    return made, left_out


def _multi_vector() -> Rerank:
    model = multi_vector_encoder()

    def rerank(query: str, passages: list[str]) -> object:
        asked = model.encode_query([query], show_progress_bar=False)
        scores = model.similarity(asked, model.encode_document(passages, show_progress_bar=False))
        return scores[0].argsort(descending=True)[:_K]

    return rerank


def _colbert_rerank() -> Rerank:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.colbert_rerank import ColbertRerank

    model = str(bundled_folder())
    postprocessor = ColbertRerank(top_n=_K, model=model, tokenizer=model, device="cpu")

    def rerank(query: str, passages: list[str]) -> object:
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in passages]
        return postprocessor.postprocess_nodes(nodes, query_str=query)

    return rerank
