"""The graph's state: what goes in, what comes out, and what stays inside one run.

Everything but `documents` lives in `UntrackedValue` channels: it is there for the run and in no checkpoint of a
step. So arrays stay out of checkpoints, and what one turn was asked (its filter, its tool outputs) does not leak
into the next turn of the same thread. What is put in is kept by LangGraph itself, as it is for every graph: the
checkpoint before the first step holds the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from langchain_core.documents import Document as LangChainDocument
from langchain_core.messages import AnyMessage
from langgraph.channels import UntrackedValue
from typing_extensions import TypedDict  # of typing, pydantic makes no JSON schema before Python 3.12

from lir_agents.graph.attempt import Underway
from lir_agents.graph.candidates import Candidates
from lir_agents.graph.conversation import Conversation
from lir_agents.graph.evidence import Evidence
from lir_agents.graph.reading import Context, Reading
from lir_agents.graph.recall import Recalled
from lir_agents.graph.request import Request
from lir_agents.graph.rerank import Ranked
from lir_agents.graph.view import View
from lir_agents.policy.base import AccessScope
from lir_agents.types import Filter, SearchResult, StageCoverage, ToolSignal, Turn

__all__ = ["Admitted", "Found", "SearchInput", "SearchOutput", "SearchState", "Staged"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Staged(Generic[T]):
    """What a stage made, and what became of it. `value` is None where the stage was skipped or left out."""

    value: T | None
    coverage: StageCoverage


@dataclass(frozen=True, slots=True)
class Admitted:
    """Made by `authorize`: the checked request and the scope it may read."""

    request: Request
    scope: AccessScope


@dataclass(frozen=True, slots=True)
class Found:
    """Made by `first_stage`: the view, what was used of the conversation, the readings of the query, what tools
    say, and the candidates."""

    view: View
    conversation: Conversation
    turn: Reading
    context: Context | None
    evidence: Evidence
    candidates: Candidates


class SearchInput(TypedDict, total=False):
    """What a caller gives: `query`; the rest is optional. See `lir_agents.graph.request.Request`."""

    query: Annotated[str, UntrackedValue]
    messages: Annotated[list[AnyMessage], UntrackedValue]
    tool_calls: Annotated[Sequence[Mapping[str, Any]], UntrackedValue]
    k: Annotated[int, UntrackedValue]
    filter: Annotated[Filter, UntrackedValue]
    history: Annotated[Sequence[Turn], UntrackedValue]
    tool_signals: Annotated[Sequence[ToolSignal], UntrackedValue]
    as_of: Annotated[int | datetime, UntrackedValue]
    remember: Annotated[bool, UntrackedValue]
    one_per_document: Annotated[bool, UntrackedValue]


class SearchOutput(TypedDict):
    """What comes back: LangChain documents, and the result with coverage, timings and the audit event's id."""

    documents: list[LangChainDocument]
    result: Annotated[SearchResult, UntrackedValue]


class SearchState(SearchInput, SearchOutput, total=False):
    """Input, output, and what the stages hand on to each other within one run."""

    underway: Annotated[Underway, UntrackedValue]
    admitted: Annotated[Staged[Admitted], UntrackedValue]
    recalled: Annotated[Staged[Recalled], UntrackedValue]
    signals: Annotated[Staged[tuple[ToolSignal, ...]], UntrackedValue]
    found: Annotated[Staged[Found], UntrackedValue]
    ranked: Annotated[Staged[Ranked], UntrackedValue]
