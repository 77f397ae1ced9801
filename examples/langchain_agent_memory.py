"""What a tool answers, and what was said before, reorder what a LangChain agent finds.

The handbook tells how to start the VPN on three kinds of computer. The question does not say which one it is about;
a tool knows. The transcript shows each search, with the places that its pages had in the search before.

Run it:             python examples/langchain_agent_memory.py
With a real model:  LIR_EXAMPLE_MODEL=openai:gpt-5-mini python examples/langchain_agent_memory.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _handbook import DOCUMENTS, STAFF, call, chat_model
from langchain.agents import create_agent
from langchain_core.messages import AnyMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from lir_agents import Document, LateInteractionIndex, ToolBinding
from lir_agents.graph.context import RetrievalContext
from lir_agents.langchain import LateInteractionMiddleware

STARTING = {
    "windows": "Find the client in the tray beside the clock, open it there, and type the code of your token.",
    "mac": "Open the client in the folder of applications, and type the code of your token.",
    "linux": "Run openvpn with the file office.conf in a terminal, and type the code of your token.",
}
MOVERS = ("context", "tool:my_computer")
"""What neither question nor page says: what was said before, and the tool."""
PAGES = [
    Document(id=f"it/vpn-{os}", title="Starting the VPN", text=text, acl=["group:staff"], metadata={"os": os})
    for os, text in STARTING.items()
]


@tool
def my_computer() -> dict[str, str]:
    """What the user's computer is."""
    return {"os": "linux"}


def main() -> None:
    question = "How do I start the VPN on my computer?"
    model = chat_model(
        call("search_documents", query=question),
        call("my_computer"),
        call("search_documents", query=question),
        "Run openvpn with office.conf in a terminal [it/vpn-linux#1.0].",
        call("search_documents", query="And what do I type there?"),
        "The code of your token [it/vpn-linux#1.0].",
    )
    # A field of the tool's answer speaks of documents: those whose metadata "os" equals it.
    binding = ToolBinding("my_computer", "os", "os")
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl", bindings=[binding]) as index,
    ):
        index.add([*DOCUMENTS, *PAGES])
        agent = create_agent(
            model,
            [my_computer],
            middleware=[LateInteractionMiddleware(index, k=4)],
            context_schema=RetrievalContext,
            checkpointer=InMemorySaver(),
        )
        context = RetrievalContext(principal=STAFF, thread_id="t1")
        config, before = {"configurable": {"thread_id": "t1"}}, {}
        for said in (question, "And what do I type there?"):
            print(f"> {said}")
            updates = agent.stream({"messages": [("user", said)]}, config, context=context, stream_mode="updates")
            for update in updates:
                for message in (update.get("model") or update.get("tools") or {}).get("messages", ()):
                    before = show(message, before)
        print("The last question, had nothing been said before:")
        for hit in index.search("And what do I type there?", k=4, principal=STAFF):
            print(f"  {hit.rank}. {hit.document_id}")


def show(message: AnyMessage, before: dict[str, int]) -> dict[str, int]:
    """One message; under a search its pages, and where each stood in the search before. Returns the places now."""
    if not isinstance(message, ToolMessage):
        print(message.text or f"  calls {', '.join(wish['name'] for wish in message.tool_calls)}")
        return before
    if not message.artifact:
        print(f"  which says {message.text}")
        return before
    places: dict[str, int] = {}
    for document in message.artifact:
        lir = document.metadata["lir"]
        name, rank, parts = lir["document_id"], lir["rank"], lir["breakdown"]
        told = "".join(f"  {part} {value:+.2f}" for part, value in parts.items() if part in MOVERS)
        was = f"  was {before.get(name, 'not among them')}" if before else ""
        print(f"  {rank}. {name:14} {lir['score']:+.2f}{told}{was}")
        places[name] = rank
    return places


if __name__ == "__main__":
    main()
