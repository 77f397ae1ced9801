"""Who asks, when a door is opened from inside somebody's agent or graph.

The principal is bound by whoever wrote the program, or handed in by the run's context, or is the user whom a
LangGraph server authenticated; a model never names it.
"""

from __future__ import annotations

from typing import Any

from lir_agents.errors import AccessDenied
from lir_agents.graph.context import RetrievalContext, ambient_runtime
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.rooms import HasRooms
from lir_agents.types import Decision, Principal

__all__ = ["ambient_runtime", "caller"]


def caller(
    index: HasRooms,
    bound: Principal | None,
    thread_id: str | None,
    runtime: Any,
    *,
    otherwise: str | None = None,
    checkpointed: bool = False,
) -> RetrievalContext:
    """Joins what a door was bound to with the run that it is called from. A refusal is recorded.

    Args:
        index: What the door leads to.
        bound: The principal that the door was bound to, if any.
        thread_id: The conversation that the call, or whoever made the door, chose: it wins over the run's.
        otherwise: The conversation where the run names none.
        runtime: The `Runtime` or `ToolRuntime` of the graph around; None outside of one.
        checkpointed: Whether the `thread_id` that the graph is checkpointed under is the conversation, where
            nobody names another.

    Raises:
        AccessDenied: Both name a principal and they differ: either may read what the other may not, so neither
            is guessed. Or the run's context claims more than a server authenticated.
        InputError: What is bound, or a field of the run's context, has the wrong type.
        StoreError: A refusal could not be recorded; it stands all the same.
    """
    with refusals_recorded(index.rooms, None):
        run = RetrievalContext.of_run(runtime)
        bound = RetrievalContext.of({"principal": bound}).principal
        if bound is not None and run.principal is not None and bound != run.principal:
            reason = "the door is bound to one principal, and the run that it is called from is another's"
            raise AccessDenied(
                f"search refused: {reason}.",
                decision=Decision(False, "search", run.principal.id, f"{reason}: {bound.id!r} is bound"),
                remedy="Bind none where the run's context carries the principal.",
            )
    conversation = thread_id or run.thread_id or otherwise
    if checkpointed and conversation is None:
        conversation = getattr(getattr(runtime, "execution_info", None), "thread_id", None)
    return RetrievalContext(bound if bound is not None else run.principal, conversation, run.budget_ms)
