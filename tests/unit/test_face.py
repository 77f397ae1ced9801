"""The face of the package: names, and what importing it costs."""

import subprocess
import sys

import lir_agents

HEAVY = ("torch", "chromadb", "langchain_core", "langgraph", "llama_index", "transformers", "numpy")


def test_every_public_name_resolves():
    missing = [name for name in lir_agents.__all__ if not hasattr(lir_agents, name)]
    assert missing == []


def test_import_loads_nothing_heavy():
    code = f"import lir_agents, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
