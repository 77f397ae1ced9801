"""A LlamaIndex AgentWorkflow: one agent finds, another writes; two principals share them, each with their own.

Run it:             python examples/llama_index_agent_workflow.py
With a real model:  LIR_EXAMPLE_LLM=default OPENAI_API_KEY=… python examples/llama_index_agent_workflow.py
                    (pip install llama-index-llms-openai)
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

from _handbook import DOCUMENTS, GUEST, STAFF
from _llama_index_model import agent_model, call
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.workflow import Context

from lir_agents import LateInteractionIndex, Principal
from lir_agents.llama_index import LateInteractionToolSpec


def team(index: LateInteractionIndex) -> AgentWorkflow:
    """Both agents; their search asks as the principal that the workflow's context holds."""
    script = (
        call("search_documents", query="How do I get into the network?"),
        call("handoff", to_agent="writer", reason="The passages are found."),
        "See the passages above.",
    )
    llm = agent_model(*script, *script)
    spec = LateInteractionToolSpec(index, k=3, context_key="principal")
    finder = FunctionAgent(
        name="finder",
        description="Finds passages.",
        tools=spec.to_tool_list(),
        llm=llm,
        can_handoff_to=["writer"],
        streaming=False,
    )
    writer = FunctionAgent(
        name="writer",
        description="Answers from the passages found, citing ids.",
        tools=[],
        llm=llm,
        streaming=False,
    )
    return AgentWorkflow(agents=[finder, writer], root_agent="finder")


async def ask(workflow: AgentWorkflow, question: str, principal: Principal) -> None:
    context: Context[Any] = Context(workflow)
    # Set by the program, never by a model; as a mapping, since a workflow's state is serialised.
    await context.store.set("principal", {"id": principal.id, "groups": list(principal.groups)})
    handler = workflow.run(question, ctx=context)
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult) and event.tool_name == "search_documents":
            found = re.findall(r'<passage id="([^"]+)#', event.tool_output.content)
            print(f"{principal.id} reads: {', '.join(sorted(found))}")
    print(f"{principal.id}> {question}\n    {await handler}")


async def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl") as index,
    ):
        index.add(DOCUMENTS)
        workflow = team(index)
        for principal in (STAFF, GUEST):
            await ask(workflow, "How do I get into the network?", principal)


if __name__ == "__main__":
    asyncio.run(main())
