"""A LlamaIndex query engine over the index, reranked by the postprocessor, with its sources.

Run it:             python examples/llama_index_query_engine.py
With a real model:  LIR_EXAMPLE_LLM=default OPENAI_API_KEY=… python examples/llama_index_query_engine.py
                    (pip install llama-index-llms-openai)
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from _handbook import DOCUMENTS, STAFF
from llama_index.core.llms.mock import MockLLM
from llama_index.core.llms.utils import resolve_llm
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from lir_agents import LateInteractionIndex
from lir_agents.llama_index import LateInteractionPostprocessor, LateInteractionRetriever


def main() -> None:
    # LlamaIndex's own stand-in answers with the prompt it was given.
    llm = resolve_llm(os.environ["LIR_EXAMPLE_LLM"]) if "LIR_EXAMPLE_LLM" in os.environ else MockLLM()
    with (
        tempfile.TemporaryDirectory() as folder,
        LateInteractionIndex.open(Path(folder) / "handbook.lir", access="acl") as index,
    ):
        index.add(DOCUMENTS)
        hr = MetadataFilters(filters=[MetadataFilter(key="team", value="hr")])
        engine = RetrieverQueryEngine.from_args(
            LateInteractionRetriever(index, k=5, principal=STAFF, filters=hr),
            llm=llm,
            node_postprocessors=[LateInteractionPostprocessor(top_n=1)],
        )
        response = engine.query("How long may parents stay at home?")
    print(response)
    for source in response.source_nodes:
        print(f"[{source.node_id}] {source.node.metadata['source']}  {source.score:+.2f}")


if __name__ == "__main__":
    main()
