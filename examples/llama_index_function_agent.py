"""A LlamaIndex FunctionAgent whose searches are ranked in the light of its chat memory.

Run it:             python examples/llama_index_function_agent.py
With a real model:  LIR_EXAMPLE_LLM=default OPENAI_API_KEY=… python examples/llama_index_function_agent.py
                    (pip install llama-index-llms-openai)
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

from _handbook import DOCUMENTS, STAFF
from _llama_index_model import agent_model, call
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.memory import Memory

from lir_agents import LateInteractionIndex
from lir_agents.llama_index import LateInteractionMemoryBlock, LateInteractionToolSpec

PROMPT = "Search before you answer, and cite the id of each passage that you use, in square brackets."


async def main() -> None:
    llm = agent_model(
        call("search_documents", query="error 809 when I start the VPN client at home"),
        "A firewall blocks the port: use the gateway vpn-b instead [it/vpn#1.0].",
        call("search_documents", query="what do I type in there?"),
        "The code of your token [it/vpn#1.0].",
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl") as index,
    ):
        index.add(DOCUMENTS)
        # The tool and the block share principal and conversation: what is said steers what is found.
        spec = LateInteractionToolSpec(index, k=2, principal=STAFF, thread_id="t1")
        block = LateInteractionMemoryBlock(index=index, principal=STAFF)
        memory = Memory.from_defaults(session_id="t1", memory_blocks=[block])
        agent = FunctionAgent(tools=spec.to_tool_list(), llm=llm, system_prompt=PROMPT, streaming=False)
        for question in ("I get error 809 from home.", "And what do I type there?"):
            print(f"> {question}")
            handler = agent.run(question, memory=memory)
            async for event in handler.stream_events():
                if isinstance(event, ToolCallResult):
                    found = re.findall(r'<passage id="([^"]+)"', event.tool_output.content)
                    print(f"    {event.tool_name} found {', '.join(found)}")
            print(await handler)


if __name__ == "__main__":
    asyncio.run(main())
