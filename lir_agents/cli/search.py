"""`lir search`: one question, ranked answers, and why each surfaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lir_agents.cli import console
from lir_agents.cli.options import principal
from lir_agents.errors import InputError

if TYPE_CHECKING:
    from lir_agents.types import Hit, SearchResult

__all__ = ["Request", "run"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: the flags of `lir search`."""

    query: str
    k: int = 10
    grants: str | None = None
    thread: str | None = None
    filter_json: str | None = None
    budget_ms: float | None = None
    explain: bool = False


def run(request: Request, index_dir: Path, *, as_json: bool) -> int:
    """Asks and prints."""
    asker, scope = principal(request.grants), _filter(request.filter_json)
    from lir_agents.engine import LateInteractionIndex

    with LateInteractionIndex.open(index_dir, create=False) as index:
        if request.budget_ms is not None:
            index.warm_up(vectors=asker is None)
        result = index.search(
            request.query,
            k=request.k,
            principal=asker,
            thread_id=request.thread,
            filter=scope,
            budget_ms=request.budget_ms,
        )
        if as_json:
            console.emit_json(result_json(result, explain=request.explain))
        else:
            _show(result, explain=request.explain)
    return console.DONE


def _filter(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _no_filter(f"is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise _no_filter("is nested too deep") from error
    except ValueError as error:  # a number of thousands of digits
        raise _no_filter("holds a number that is too long") from error
    if not isinstance(value, dict):
        raise _no_filter("is not a JSON object")
    return value


def _no_filter(what: str) -> InputError:
    return InputError(what, field="filter", remedy='Write {"key": "value"}.')


def _show(result: SearchResult, *, explain: bool) -> None:
    from lir_agents.cli import render

    screen = console.out()
    full = render.longest(result)
    for hit in result:
        explanation = hit.explain() if explain else None
        screen.print(render.hit_panel(hit, full=full, explanation=explanation))
        if explanation is not None:
            screen.print(render.match_table(explanation))
    screen.print(render.result_footer(result))


def result_json(result: SearchResult, *, explain: bool = False) -> dict[str, Any]:
    """A result as JSON data, with every field that a hit has."""
    return {
        "query": result.query,
        "event_id": result.event_id,
        "coverage": {
            "full": result.coverage.full,
            "stages": {
                name: {"status": stage.status, "reason": stage.reason, "elapsed_ms": stage.elapsed_ms}
                for name, stage in result.coverage.stages.items()
            },
        },
        "timings_ms": dict(result.timings_ms),
        "hits": [_hit_json(hit, explain=explain) for hit in result],
    }


def _hit_json(hit: Hit, *, explain: bool) -> dict[str, Any]:
    fields = (
        *("rank", "score", "document_id", "passage_id", "version", "title", "text", "start", "end"),
        *("source", "source_uri", "content_sha256"),
    )
    written: dict[str, Any] = {name: getattr(hit, name) for name in fields}
    written |= {"metadata": dict(hit.metadata), "breakdown": dict(hit.breakdown)}
    if explain:
        written["explanation"] = [
            {
                "query_token": match.query_token,
                "word": match.word,
                "similarity": match.similarity,
                "contribution": match.contribution,
                "start": match.span[0],
                "end": match.span[1],
                "in_title": match.in_title,
            }
            for match in hit.explain()
        ]
    return written
