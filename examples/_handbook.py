"""What the examples share: a small handbook, and a chat model that is scripted unless you name a real one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage

from lir_agents import Document, Principal

STAFF = Principal("alice", groups=["group:staff"])
GUEST = Principal("bob", groups=["group:guests"])

_EVERYBODY = ["group:staff", "group:guests"]
DOCUMENTS = [
    Document(
        id="hr/leave",
        title="Annual leave",
        text="Everybody has thirty days of paid leave a year. Leave that is not taken by March is lost.",
        source_uri="https://handbook.example/hr/leave",
        acl=["group:staff"],
        metadata={"team": "hr"},
    ),
    Document(
        id="hr/parents",
        title="Parental leave",
        text="Parents of a newborn get twenty weeks of paid leave, and may return part-time for a year.",
        source_uri="https://handbook.example/hr/parents",
        acl=["group:staff"],
        metadata={"team": "hr"},
    ),
    Document(
        id="it/vpn",
        title="VPN",
        text="To reach the network from home, start the VPN client and type the code of your token. "
        "Error 809 means that a firewall blocks the port: use the gateway vpn-b instead.",
        source_uri="https://handbook.example/it/vpn",
        acl=["group:staff"],
        metadata={"team": "it"},
    ),
    Document(
        id="it/wifi",
        title="Guest Wi-Fi",
        text="Guests use the network named Lobby. The password is on the badge and changes every Monday.",
        source_uri="https://handbook.example/it/wifi",
        acl=_EVERYBODY,
        metadata={"team": "it"},
    ),
    Document(
        id="house/visitors",
        title="Visitors",
        text="Visitors sign in at reception, wear their badge, and are accompanied wherever they go.",
        source_uri="https://handbook.example/house/visitors",
        acl=_EVERYBODY,
        metadata={"team": "house"},
    ),
]


def without_acl() -> list[Document]:
    """The same handbook for an index that is open to whoever runs the program."""
    import dataclasses

    return [dataclasses.replace(document, acl=None) for document in DOCUMENTS]


class ScriptedModel(GenericFakeChatModel):
    """LangChain's scripted chat model, which takes tools and says what its script says next."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> BaseChatModel:
        return self


def chat_model(*script: AIMessage | str) -> BaseChatModel:
    """A real model where LIR_EXAMPLE_MODEL names one ("openai:gpt-5-mini"), else the script."""
    if name := os.environ.get("LIR_EXAMPLE_MODEL"):
        from langchain.chat_models import init_chat_model

        return init_chat_model(name)
    return ScriptedModel(messages=iter(script))


def call(tool: str, **arguments: Any) -> AIMessage:
    """A model's wish to call a tool."""
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": f"call-{tool}", "type": "tool_call"}])
