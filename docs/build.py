"""Makes the reference pages from the docstrings: `make docs`, or `python docs/build.py [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc
import pdoc.render

PUBLIC = (
    "lir_agents.engine",
    "lir_agents.types",
    "lir_agents.errors",
    "lir_agents.config",
    "lir_agents.graph.build",
    "lir_agents.graph.context",
    "lir_agents.langchain.adopt",
    "lir_agents.langchain.compressor",
    "lir_agents.langchain.middleware",
    "lir_agents.langchain.retriever",
    "lir_agents.langchain.tool",
    "lir_agents.langchain.vectorstore",
    "lir_agents.llama_index.postprocessor",
    "lir_agents.llama_index.retriever",
    "lir_agents.llama_index.tool_spec",
    "lir_agents.encoding.base",
    "lir_agents.memory.session",
    "lir_agents.policy.base",
    "lir_agents.policy.acl",
    "lir_agents.policy.cedar",
    "lir_agents.audit.log",
    "lir_agents.ingest.redact",
    "lir_agents.evaluation",
    "lir_agents.ranking.fusion",
    "lir_agents.ranking.maxsim",
)
"""What people import or implement; the rest is the house's own."""


def main() -> None:
    """Writes one HTML page a module, with a search box, and no server needed to read them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "site"
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*PUBLIC, output_directory=folder)
    sys.stdout.write(f"{folder / 'index.html'}\n")


if __name__ == "__main__":
    main()
