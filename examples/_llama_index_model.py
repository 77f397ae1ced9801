"""What the LlamaIndex examples share: the framework's scripted LLM, unless you name a real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.llms.utils import resolve_llm


def agent_model(*script: ChatMessage | str) -> FunctionCallingLLM:
    """A real model where LIR_EXAMPLE_LLM is set ("default": OpenAI's), else one that follows the script."""
    if name := os.environ.get("LIR_EXAMPLE_LLM"):
        real: Any = resolve_llm(name)
        return real
    lines: Iterator[ChatMessage | str] = iter(script)

    def reply(messages: Any, **_: Any) -> ChatMessage:
        line = next(lines)
        return ChatMessage(role="assistant", content=line) if isinstance(line, str) else line

    return MockFunctionCallingLLM(response_generator=reply, is_chat_model=True)


def call(tool: str, **arguments: Any) -> ChatMessage:
    """A model's wish to call a tool."""
    block = ToolCallBlock(tool_call_id=f"call-{tool}", tool_name=tool, tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[block])
