"""A LangGraph support agent over one index that two principals share; each gets what they may read.

Run it:             python examples/langgraph_support_agent.py
With a real model:  LIR_EXAMPLE_MODEL=openai:gpt-5-mini python examples/langgraph_support_agent.py
As a server:        langgraph dev --config examples/langgraph.json      (pip install 'langgraph-cli[inmem]')
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from _handbook import DOCUMENTS, GUEST, STAFF, chat_model
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from lir_agents import LateInteractionIndex
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext

INDEXES: list[LateInteractionIndex] = []
"""What `served` opened: a server holds it until it ends."""


class Support(MessagesState):
    query: str
    documents: list[Document]


def take(state: Support) -> dict[str, str]:
    """What the person said last is what is searched for."""
    return {"query": state["messages"][-1].text}


def support_graph(index: LateInteractionIndex, model: BaseChatModel) -> StateGraph[Any, Any, Any, Any]:
    """Take → retrieve (the retrieval graph itself, as a subgraph) → answer. The principal is in the context."""

    def answer(state: Support) -> dict[str, Any]:
        passages = "\n".join(f"[{one.id}] {one.page_content}" for one in state["documents"])
        system = SystemMessage(f"Answer from these passages alone, and cite their ids.\n{passages}")
        return {"messages": [model.invoke([system, *state["messages"]])]}

    graph = StateGraph(Support, context_schema=RetrievalContext)
    graph.add_node("take", take)
    graph.add_node("retrieve", build_graph(index).compile(checkpointer=False))
    graph.add_node("answer", answer)
    graph.add_edge(START, "take")
    graph.add_edge("take", "retrieve")
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", END)
    return graph


def served() -> Any:
    """What `langgraph.json` names: the server keeps the checkpoints and authenticates the principal."""
    index = LateInteractionIndex.open(os.environ.get("LIR_EXAMPLE_INDEX", "handbook.lir"), access="acl")
    INDEXES.append(index)
    index.add(DOCUMENTS)
    return support_graph(index, chat_model(*["See the passages."] * 1000)).compile()


def main() -> None:
    model = chat_model(
        "Thirty days of paid leave a year [hr/leave#1.0].",
        "I found nothing about leave that you may read.",
        "Use the gateway vpn-b [it/vpn#1.0].",
        "Join the network Lobby; the password is on your badge [it/wifi#1.0].",
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl") as index,
    ):
        index.add(DOCUMENTS)
        agent = support_graph(index, model).compile(checkpointer=InMemorySaver())
        for question in ("How many days off do I get?", "How do I get into the network?"):
            for principal in (STAFF, GUEST):
                state = agent.invoke(
                    {"messages": [HumanMessage(question)]},
                    {"configurable": {"thread_id": principal.id}},
                    context=RetrievalContext(principal=principal, thread_id=principal.id),
                )
                print(f"{principal.id}> {question}\n    {state['messages'][-1].text}")
                read = sorted(document.metadata["lir"]["document_id"] for document in state["documents"])
                print(f"    read: {', '.join(read)}")


if __name__ == "__main__":
    main()
