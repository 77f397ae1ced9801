"""`LateInteractionToolSpec`: an index as a tool of LlamaIndex agents."""

# No `from __future__ import annotations` here: LlamaIndex recognises `Context` by the annotation itself and would
# not see it in a string.

from typing import Any, Final

from llama_index.core.bridge.pydantic import TypeAdapter, ValidationError
from llama_index.core.tools.function_tool import FunctionTool
from llama_index.core.tools.tool_spec.base import BaseToolSpec
from llama_index.core.workflow import Context

from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import InputError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.quote import quote
from lir_agents.types import Principal

__all__ = ["LateInteractionToolSpec"]

_NUMBER: Final = TypeAdapter(int)


class LateInteractionToolSpec(BaseToolSpec):
    """Searches an index for whoever the agent works for; the query reaches the index word for word.

    (`RetrieverTool` rewrites it, which late interaction suffers from.) The model reads the passages quoted, with
    ids to cite and the sources, and can neither name nor change the principal.

    Args:
        index: The open index; shared, never closed by the tool.
        k: Passages where the model names no number; None: the index's default.
        principal: Who asks. Every index that is not open refuses None.
        context_key: Instead of `principal`: the key under which the workflow's state (`ctx.store`) keeps it, for
            tools that several users share. As a mapping with id, groups, tenant: the state is serialised. Without
            it, or outside of a workflow, a call has no principal.
        thread_id: The conversation whose memory steers the ranking.

    Raises:
        InputError: Both `principal` and `context_key` were given.

    Example:
        >>> FunctionAgent(tools=LateInteractionToolSpec(index, principal=alice).to_tool_list(), llm=llm)
    """

    spec_functions = [("search_documents", "asearch_documents")]  # noqa: RUF012 - as LlamaIndex declares it

    def __init__(
        self,
        index: LateInteractionIndex,
        *,
        k: int | None = None,
        principal: Principal | None = None,
        context_key: str | None = None,
        thread_id: str | None = None,
    ) -> None:
        if principal is not None and context_key is not None:
            raise InputError("was given beside context_key", field="principal", remedy="Give one of them.")
        self.index = index
        self.k = k
        self.principal = principal
        self.context_key = context_key
        self.thread_id = thread_id

    def search_documents(self, query: str, k: int | None = None) -> str:
        """Searches the documents that the user may read and returns passages to cite.

        query (str): The question in full, as one would ask a person.
        k (int): How many passages; leave it out as a rule.
        """
        return quote(self.index.search(query, **self._asked(k, self.principal)))

    async def asearch_documents(self, query: str, k: int | None = None) -> str:
        """`search_documents`, without blocking the event loop."""
        return quote(await self.index.asearch(query, **self._asked(k, self.principal)))

    def to_tool_list(self, *args: Any, **kwargs: Any) -> list[FunctionTool]:
        """The tool, as agents take it; arguments as of `BaseToolSpec`."""
        if self.context_key is None:
            return super().to_tool_list(*args, **kwargs)
        return [
            FunctionTool.from_defaults(
                async_fn=self._search_in_workflow,
                name="search_documents",
                description=type(self).search_documents.__doc__,
            )
        ]

    async def _search_in_workflow(self, ctx: Context, query: str, k: int | None = None) -> str:
        """`search_documents` for the principal of the workflow.

        query (str): The question in full, as one would ask a person.
        k (int): How many passages; leave it out as a rule.
        """
        # Only a context that the workflow handed over counts: what a model writes arrives as a dict or a string.
        held = await ctx.store.get(self.context_key or "", default=None) if isinstance(ctx, Context) else None
        principal = RetrievalContext.of({"principal": held}).principal
        return quote(await self.index.asearch(query, **self._asked(k, principal)))

    def _asked(self, k: int | None, principal: Principal | None) -> dict[str, Any]:
        return {
            "k": self.k if k is None else _number(k),
            "principal": principal,
            "thread_id": self.thread_id,
            # The query is the model's wording. The conversation steers it, and is not told it as the user's turn.
            "remember": False,
        }


def _number(written: Any) -> Any:
    """A number as a model wrote it ("3", 3.0), which LlamaIndex hands on unread; what is none is refused later."""
    try:
        return _NUMBER.validate_python(written)
    except ValidationError:
        return written
