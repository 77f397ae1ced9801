"""A LangChain agent that searches, calls another tool, and is ranked in the light of both on the next turn.

Run it:             python examples/langchain_agent_memory.py
With a real model:  LIR_EXAMPLE_MODEL=openai:gpt-5-mini python examples/langchain_agent_memory.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _handbook import DOCUMENTS, STAFF, call, chat_model
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from lir_agents import LateInteractionIndex
from lir_agents.graph.context import RetrievalContext
from lir_agents.langchain import LateInteractionMiddleware


@tool
def connection_status() -> str:
    """The state of the user's network connection."""
    return "VPN client: error 809, gateway vpn-a, port 500 blocked"


def main() -> None:
    model = chat_model(
        call("connection_status"),
        call("search_documents", query="VPN error 809 from home"),
        "A firewall blocks the port. Use the gateway vpn-b instead [it/vpn#1.0].",
        call("search_documents", query="what do I type in there?"),
        "The code of your token [it/vpn#1.0].",
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl") as index,
    ):
        index.add(DOCUMENTS)
        agent = create_agent(
            model,
            [connection_status],
            middleware=[LateInteractionMiddleware(index, k=2)],
            context_schema=RetrievalContext,
            checkpointer=InMemorySaver(),
        )
        context = RetrievalContext(principal=STAFF, thread_id="t1")
        for question in ("I can't get into the network from home.", "And what do I type there?"):
            state = agent.invoke(
                {"messages": [("user", question)]}, {"configurable": {"thread_id": "t1"}}, context=context
            )
            print(f"> {question}\n{state['messages'][-1].text}")
            searches = [one for one in state["messages"] if isinstance(one, ToolMessage) and one.artifact]
            for document in searches[-1].artifact:
                print(f"    {document.id}  {document.metadata['lir']['score']:+.2f}")


if __name__ == "__main__":
    main()
