"""The steps of a search as runs of their own, for whoever listens with LangChain callbacks (LangSmith, for one)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config

__all__ = ["traced"]

T = TypeVar("T")


def traced(name: str, step: Callable[[], T]) -> T:
    """Takes a step, and tells the callbacks of the LangChain run around it, where there are any.

    They hear its name and how long it took: neither what was asked nor what was found.
    """
    config = var_child_runnable_config.get()
    callbacks = (config or {}).get("callbacks")
    if not (callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks):
        return step()
    made: list[T] = []

    def work(_: None) -> None:
        made.append(step())

    RunnableLambda(work, name=name).invoke(None, config)
    return made[0]
