"""The steps of a search as runs of their own, for whoever listens with LangChain callbacks (LangSmith, for one)."""

from __future__ import annotations

from collections.abc import Callable

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config

__all__ = ["traced"]


def traced(step: Callable[[str], None]) -> Callable[[str], None]:
    """The same, told to the callbacks of the LangChain run around it; as it is where nobody listens.

    They hear the names of the steps and how long each took: neither what was asked nor what was found.
    """
    config = var_child_runnable_config.get()
    callbacks = (config or {}).get("callbacks")
    if not (callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks):
        return step

    def take(name: str) -> None:
        def work(_: None) -> None:
            step(name)

        RunnableLambda(work, name=name).invoke(None, config)

    return take
