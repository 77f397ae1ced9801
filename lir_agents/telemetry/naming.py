"""What a span says, in OpenInference's words and in those of OpenTelemetry's GenAI conventions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from lir_agents.types import SearchResult

__all__ = ["SEARCH", "TOOLS", "fixed", "of_content", "of_result"]

SEARCH: Final = "search"
TOOLS: Final = "tools"
_KINDS: Final[Mapping[str, str]] = {
    SEARCH: "RETRIEVER",
    "first_stage": "RETRIEVER",
    "rerank": "RERANKER",
    TOOLS: "TOOL",
}


@cache
def fixed(name: str, status: str = "") -> Mapping[str, str]:
    """What every span of a name says, and what became of it where that is known already."""
    said = {
        "openinference.span.kind": _KINDS.get(name, "CHAIN"),
        "gen_ai.operation.name": "execute_tool" if name == TOOLS else "retrieval",
    }
    return {**said, "lir.status": status} if status else said


def of_result(result: SearchResult) -> dict[str, Any]:
    """What a search came to, without a word of it."""
    return {
        "lir.coverage.full": result.coverage.full,
        "lir.hits": len(result.hits),
        "lir.audit.event_id": result.event_id,
        **{f"retrieval.documents.{at}.document.score": hit.score for at, hit in enumerate(result.hits)},
    }


def of_content(result: SearchResult) -> dict[str, Any]:
    """What was asked and found, under the names of both conventions."""
    documents = [{"id": hit.passage_id, "score": hit.score} for hit in result.hits]
    told: dict[str, Any] = {
        "input.value": result.query,
        "gen_ai.retrieval.query.text": result.query,
        "gen_ai.retrieval.documents": json.dumps(documents),
    }
    for at, hit in enumerate(result.hits):
        told[f"retrieval.documents.{at}.document.id"] = hit.passage_id
        told[f"retrieval.documents.{at}.document.content"] = hit.text
    return told
