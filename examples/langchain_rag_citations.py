"""A LangChain RAG chain whose answer cites passages, and a check that every citation is real.

Run it:             python examples/langchain_rag_citations.py
With a real model:  LIR_EXAMPLE_MODEL=openai:gpt-5-mini python examples/langchain_rag_citations.py
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from _handbook import chat_model, without_acl
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from lir_agents import LateInteractionIndex
from lir_agents.langchain import LateInteractionRetriever

PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer from the passages alone. Cite the id of each passage you use, in square brackets."),
        ("human", "{passages}\n\nQuestion: {question}"),
    ]
)


def numbered(documents: list[Document]) -> str:
    return "\n\n".join(f"[{document.id}] {document.page_content}" for document in documents)


def main() -> None:
    question = "How many days off do I get, and until when may I take them?"
    model = chat_model(
        "You have thirty days of paid leave a year; what is not taken by March is lost [hr/leave#1.0]."
    )
    with tempfile.TemporaryDirectory() as folder, LateInteractionIndex.open(Path(folder) / "handbook.lir") as index:
        index.add(without_acl())
        retriever = LateInteractionRetriever(index=index, k=3)
        answer = PROMPT | model | StrOutputParser()
        chain = RunnablePassthrough.assign(passages=lambda given: numbered(given["documents"])) | {
            "answer": answer,
            "documents": lambda given: given["documents"],
        }
        found = chain.invoke({"question": question, "documents": retriever.invoke(question)})

    print(found["answer"], "\n")
    known = {document.id: document for document in found["documents"]}
    for cited in dict.fromkeys(re.findall(r"\[([^\[\]]+#\d+\.\d+)\]", found["answer"])):
        source = known[cited]  # a KeyError here would be a citation that the model made up
        print(f"[{cited}] {source.metadata['title']}, {source.metadata['source']}")


if __name__ == "__main__":
    main()
