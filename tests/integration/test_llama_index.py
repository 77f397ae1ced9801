"""The LlamaIndex door: retriever, filters, postprocessor, tool spec, and engines and agents over them."""

from __future__ import annotations

import copy
import datetime
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from llama_index.core.workflow import Context
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler

from lir_agents import AccessDenied, BudgetExceeded, Document, InputError, LateInteractionIndex
from lir_agents.llama_index import (
    LateInteractionPostprocessor,
    LateInteractionRetriever,
    LateInteractionToolSpec,
)
from lir_agents.llama_index.filters import to_filter
from tests.doors import ALICE, BOB, QUERIES, documents, readers
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents"),
    pytest.mark.filterwarnings("error::DeprecationWarning:llama_index"),
]


class Events(BaseEventHandler):
    """Keeps every event of LlamaIndex's instrumentation."""

    seen: list[Any]

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


@pytest.fixture
def events() -> Any:
    handler = Events(seen=[])
    root = get_dispatcher("root")
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


# ---------------------------------------------------------------- retriever


async def test_nodes_carry_what_a_citation_needs(open_index: LateInteractionIndex, events: Events) -> None:
    retriever = LateInteractionRetriever(open_index, k=3)
    found = retriever.retrieve(QUERIES[0])
    assert len(found) == 3
    for rank, one in enumerate(found, start=1):
        known = one.node.metadata["lir"]
        stored = open_index.get(known["document_id"])
        assert stored is not None
        assert isinstance(one.node, TextNode)
        assert stored.text[one.node.start_char_idx : one.node.end_char_idx] == one.node.text
        assert (one.node.ref_doc_id, known["rank"]) == (known["document_id"], rank)
        assert one.node.relationships[NodeRelationship.SOURCE].hash == stored.content_sha256  # type: ignore[union-attr]
        assert sum(known["breakdown"].values()) == pytest.approx(one.score)
        assert "breakdown" not in one.node.get_content(metadata_mode="llm")  # type: ignore[arg-type]
    assert [(one.node_id, one.score) for one in await retriever.aretrieve(QUERIES[0])] == [
        (one.node_id, one.score) for one in found
    ]
    assert len(events.of(RetrievalEndEvent)) == 2


async def test_the_retriever_is_natively_asynchronous(
    open_index: LateInteractionIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(*_: Any, **__: Any) -> None:
        raise AssertionError("the blocking search was called")

    retriever = LateInteractionRetriever(open_index, k=2)
    monkeypatch.setattr(LateInteractionIndex, "search", blocked)
    assert len(await retriever.aretrieve(QUERIES[0])) == 2


async def test_each_principal_gets_their_own(acl_index: LateInteractionIndex) -> None:
    shared = LateInteractionRetriever(acl_index, k=50)
    for principal, grant in ((ALICE, "group:staff"), (BOB, "group:guests")):
        readable = {number for number in range(50) if grant in readers(number)}
        theirs = shared.as_principal(principal)
        assert {one.node.metadata["number"] for one in theirs.retrieve(QUERIES[0])} == readable
        assert {one.node.metadata["number"] for one in await theirs.aretrieve(QUERIES[0])} == readable
    with pytest.raises(AccessDenied):
        shared.retrieve(QUERIES[0])
    with pytest.raises(AccessDenied):
        await shared.aretrieve(QUERIES[0])


def test_a_budget_is_kept(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(open_index, budget_ms=0.001)
    for door in (retriever, retriever.as_principal(None)):
        with pytest.raises(BudgetExceeded):
            door.retrieve("leave")


def test_texts_in_place_of_the_query_are_refused(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(open_index, k=2)
    with pytest.raises(InputError, match="custom_embedding_strs"):
        retriever.retrieve(QueryBundle(QUERIES[0], custom_embedding_strs=["a passage that nobody wrote"]))
    assert len(retriever.retrieve(QueryBundle(QUERIES[0], custom_embedding_strs=[QUERIES[0]]))) == 2


@pytest.mark.parametrize("mode", list(FUSION_MODES))
async def test_a_passage_found_by_several_searches_is_one_node(
    open_index: LateInteractionIndex, mode: FUSION_MODES
) -> None:
    """Fused with itself, a list keeps its order and names each passage once."""
    retriever = LateInteractionRetriever(open_index, k=6)
    alone = [one.node_id for one in retriever.retrieve(QUERIES[0])]
    fused = QueryFusionRetriever(
        [retriever, LateInteractionRetriever(open_index, k=6)],
        llm=MockLLM(),
        num_queries=1,
        similarity_top_k=6,
        mode=mode,
        use_async=False,
    )
    for found in (fused.retrieve(QUERIES[0]), await fused.aretrieve(QUERIES[0])):
        assert [one.node_id for one in found] == alone


def test_ranks_of_a_passage_are_summed_over_searches(open_index: LateInteractionIndex) -> None:
    both = [LateInteractionRetriever(open_index, k=k) for k in (2, 4)]
    fused = QueryFusionRetriever(
        list(both),
        llm=MockLLM(),
        num_queries=1,
        similarity_top_k=9,
        mode=FUSION_MODES.RECIPROCAL_RANK,
        use_async=False,
    )
    scores = [one.score for one in fused.retrieve(QUERIES[0])]
    assert scores == pytest.approx([2 / 60, 2 / 61, 1 / 62, 1 / 63])


def test_passages_stay_apart_and_follow_their_content(quick_path: Path, encoder: HashedEncoder) -> None:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        retriever = LateInteractionRetriever(index, k=5)
        index.add([Document("The cat sat.", id=name, title="Cats", source_uri="https://c") for name in ("a", "b")])
        first, second = retriever.retrieve("cat")
        assert first.node.hash != second.node.hash
        hashes = {one.node.ref_doc_id: one.node.hash for one in (first, second)}
        index.add([Document("The cat sat.", id="a", title="Dogs", source_uri="https://c")])
        again = {one.node.ref_doc_id: one.node.hash for one in retriever.retrieve("cat")}
        assert (again["a"] == hashes["a"], again["b"] == hashes["b"]) == (False, True)


def test_nodes_serialise_as_text_nodes(open_index: LateInteractionIndex) -> None:
    (found,) = LateInteractionRetriever(open_index, k=1).retrieve(QUERIES[0])
    written = found.to_dict()
    assert written["node"]["class_name"] == "TextNode"
    assert TextNode.from_dict(written["node"]).to_dict() == found.node.to_dict()
    for copied in (
        copy.deepcopy(found.node),
        pickle.loads(pickle.dumps(found.node)),
        json_to_doc(doc_to_json(found.node)),
    ):
        assert (copied.node_id, copied.metadata) == (found.node_id, found.node.metadata)


# ---------------------------------------------------------------- filters

METADATA: dict[str, dict[str, Any]] = {
    "one": {"n": 1, "word": "cat", "tags": ["red", "blue"]},
    "two": {"n": 2, "word": "dog", "tags": ["red"]},
    "three": {"n": 3, "word": "cat"},
    "four": {"word": "", "tags": []},
    "five": {"n": 2.5, "tags": ["green"]},
}
NUMBERS = st.sampled_from([1, 2, 2.5, 3])
WORDS = st.sampled_from(["cat", "dog", "bird"])
TAGS = st.lists(st.sampled_from(["red", "blue", "green"]), min_size=1, max_size=2)
CONDITIONS = st.one_of(
    st.builds(
        MetadataFilter,
        key=st.just("n"),
        value=NUMBERS,
        operator=st.sampled_from(
            [
                FilterOperator.EQ,
                FilterOperator.NE,
                FilterOperator.GT,
                FilterOperator.GTE,
                FilterOperator.LT,
                FilterOperator.LTE,
            ]
        ),
    ),
    st.builds(
        MetadataFilter,
        key=st.just("word"),
        value=st.lists(WORDS, min_size=1, max_size=2),
        operator=st.sampled_from([FilterOperator.IN, FilterOperator.NIN]),
    ),
    st.builds(
        MetadataFilter,
        key=st.just("tags"),
        value=TAGS,
        operator=st.sampled_from([FilterOperator.ANY, FilterOperator.ALL]),
    ),
    st.builds(
        MetadataFilter,
        key=st.just("tags"),
        value=st.sampled_from(["red", "green"]),
        operator=st.just(FilterOperator.CONTAINS),
    ),
    st.builds(
        MetadataFilter,
        key=st.sampled_from(["n", "word", "tags", "none"]),
        value=st.none(),
        operator=st.just(FilterOperator.IS_EMPTY),
    ),
)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Which documents a retriever with the filters given finds."""
    with LateInteractionIndex.open(tmp_path_factory.mktemp("f") / "i.lir", encoder=HashedEncoder()) as index:
        index.add([Document("a cat", id=name, metadata=metadata) for name, metadata in METADATA.items()])

        def found(filters: MetadataFilters) -> set[str | None]:
            return {
                one.node.ref_doc_id for one in LateInteractionRetriever(index, k=5, filters=filters).retrieve("cat")
            }

        yield found


def knows_not() -> bool:
    """Whether LlamaIndex's own stores can say no: before 0.14.16 they cannot, and drop what lacks a key."""
    no = MetadataFilters(filters=[MetadataFilter(key="word", value="cat")], condition=FilterCondition.NOT)
    try:
        return not build_metadata_filter_fn(METADATA.__getitem__, no)("one")
    except ValueError:
        return False


@pytest.mark.skipif(not knows_not(), reason="this LlamaIndex cannot evaluate its own filters")
@settings(max_examples=60, deadline=None)
@given(conditions=st.lists(CONDITIONS, min_size=1, max_size=3), condition=st.sampled_from(list(FilterCondition)))
def test_filters_match_what_llama_indexs_own_stores_match(
    filtered: Callable[[MetadataFilters], set[str]],
    conditions: list[MetadataFilter],
    condition: FilterCondition,
) -> None:
    filters = MetadataFilters(filters=conditions, condition=condition)  # type: ignore[arg-type]
    matches = build_metadata_filter_fn(METADATA.__getitem__, filters)
    assert filtered(filters) == {name for name in METADATA if matches(name)}


@pytest.mark.parametrize(
    ("operator", "value"),
    [(FilterOperator.CONTAINS, "ca"), (FilterOperator.ANY, ["cat"]), (FilterOperator.ALL, ["c", "a"])],
)
def test_parts_of_strings_are_not_looked_for(
    filtered: Callable[[MetadataFilters], set[str]], operator: FilterOperator, value: Any
) -> None:
    wanted = MetadataFilters(filters=[MetadataFilter(key="word", value=value, operator=operator)])
    assert filtered(wanted) == set()


def test_filters_nest(filtered: Callable[[MetadataFilters], set[str]]) -> None:
    cat = MetadataFilter(key="word", value="cat")
    first = MetadataFilter(key="n", value=1)
    inner = MetadataFilters(filters=[first], condition=FilterCondition.NOT)
    assert filtered(MetadataFilters(filters=[cat, inner])) == {"three"}
    assert to_filter(None) is None
    assert to_filter(MetadataFilters(filters=[])) is None


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        (FilterOperator.TEXT_MATCH, "cat"),
        (FilterOperator.TEXT_MATCH_INSENSITIVE, "cat"),
        (FilterOperator.EQ, None),
        (FilterOperator.IN, "cat"),
        (FilterOperator.ALL, "cat"),
    ],
)
def test_what_cannot_be_translated_is_refused(
    open_index: LateInteractionIndex, operator: FilterOperator, value: Any
) -> None:
    wanted = MetadataFilter(key="word", value=value, operator=operator)
    fine = MetadataFilter(key="number", value=1)
    with pytest.raises(InputError, match=r"filters: operator .* on 'word'"):
        LateInteractionRetriever(open_index, filters=MetadataFilters(filters=[fine, wanted]))


def test_what_is_no_filters_is_refused(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(open_index, filters=only("even"))
    for wrong in ({"parity": "even"}, [MetadataFilter(key="parity", value="even")], "parity"):
        with pytest.raises(InputError, match=r"filters: is .* Pass MetadataFilters"):
            LateInteractionRetriever(open_index, filters=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="filters: is "):
            retriever.filters = wrong  # type: ignore[assignment]
    assert parities(retriever) == {"even"}, "a refused assignment changes nothing"


def test_filters_may_be_assigned_and_changed(open_index: LateInteractionIndex) -> None:
    retriever = LateInteractionRetriever(open_index, k=20)
    assert parities(retriever) == {"even", "odd"}
    retriever.filters = only("even")
    assert parities(retriever) == parities(retriever.as_principal(None)) == {"even"}
    retriever.filters.filters.append(MetadataFilter(key="number", value=4))
    assert len(retriever.retrieve(QUERIES[0])) == 1
    retriever.filters = None
    assert parities(retriever) == {"even", "odd"}


def only(parity: str) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key="parity", value=parity)])


def parities(retriever: LateInteractionRetriever) -> set[str]:
    return {one.node.metadata["parity"] for one in retriever.retrieve(QUERIES[0])}


# ---------------------------------------------------------------- postprocessor


def given_nodes() -> list[NodeWithScore]:
    texts = [document.text for document in documents(8)]
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"n{n}"), score=1.0 / (n + 1)) for n, text in enumerate(texts)
    ]


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_nodes_are_reranked_and_encoded_once(
    encoder: HashedEncoder, events: Events, tmp_path: Path, where: str
) -> None:
    path = tmp_path / "cache" if where == "disk" else None
    postprocessor = LateInteractionPostprocessor(encoder=encoder, top_n=3, cache_path=path)
    nodes = given_nodes()
    before = copy.deepcopy(nodes)
    found = postprocessor.postprocess_nodes(nodes, query_str="the cat sat on a mat")
    assert nodes == before
    assert found[0].node.node_id == "n2"
    assert len(encoder.documents) == len(nodes)
    again = await postprocessor.apostprocess_nodes(nodes, query_str="the cat sat on a mat")
    assert again == found
    assert len(encoder.documents) == len(nodes), "the second time encodes nothing"
    assert [(event.top_n, event.model_name) for event in events.of(ReRankStartEvent)] == [(3, "hashed")] * 2
    assert [event.nodes for event in events.of(ReRankEndEvent)] == [found, found]
    with pytest.raises(InputError, match="query"):
        postprocessor.postprocess_nodes(nodes)
    postprocessor.close()


def test_a_misspelt_argument_is_refused(encoder: HashedEncoder) -> None:
    with pytest.raises(ValueError, match="top_k"):
        LateInteractionPostprocessor(encoder=encoder, top_k=1)  # type: ignore[call-arg]


def test_the_postprocessor_comes_back_from_what_llama_index_writes(encoder: HashedEncoder) -> None:
    kind = LateInteractionPostprocessor
    written = kind(encoder=encoder, top_n=3)
    for read in (
        kind.from_dict(written.to_dict(), encoder=encoder),
        kind.from_json(written.to_json(), encoder=encoder),
        kind.model_validate({**written.model_dump(), "encoder": encoder}),
    ):
        assert (read.top_n, read.class_name()) == (3, "LateInteractionPostprocessor")


# ---------------------------------------------------------------- tools, engines, agents


def test_the_tool_takes_a_query_and_a_number_and_nothing_else(open_index: LateInteractionIndex) -> None:
    for spec in (LateInteractionToolSpec(open_index), LateInteractionToolSpec(open_index, context_key="principal")):
        (tool,) = spec.to_tool_list()
        assert tool.metadata.get_name() == "search_documents"
        assert set(tool.metadata.get_parameters_dict()["properties"]) == {"query", "k"}


async def test_the_query_reaches_the_index_word_for_word(quick_path: Path, encoder: HashedEncoder) -> None:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        index.add(documents(5))
        (tool,) = LateInteractionToolSpec(index, k=2).to_tool_list()
        output = await tool.acall(query=QUERIES[0])
        assert encoder.queries[-1] == QUERIES[0]
        assert output.content.count("<passage id=") == 2
        assert tool.call(query=QUERIES[0], k=1).content.count("<passage id=") == 1


async def test_a_number_counts_as_the_model_wrote_it(open_index: LateInteractionIndex) -> None:
    (tool,) = LateInteractionToolSpec(open_index).to_tool_list()
    for number in (3, "3", 3.0):
        assert (await tool.acall(query=QUERIES[0], k=number)).content.count("<passage id=") == 3
    for nonsense in ("three", "0", 2.5, []):
        with pytest.raises(InputError, match="k: is"):
            await tool.acall(query=QUERIES[0], k=nonsense)


async def test_query_engine_over_retriever_and_postprocessor(
    open_index: LateInteractionIndex, encoder: HashedEncoder
) -> None:
    engine = RetrieverQueryEngine.from_args(
        LateInteractionRetriever(open_index, k=10),
        llm=MockLLM(),
        node_postprocessors=[LateInteractionPostprocessor(encoder=encoder, top_n=2)],
    )
    answer = engine.query(QUERIES[2])
    assert len(answer.source_nodes) == 2
    assert answer.source_nodes[0].node.get_content() in str(answer)
    assert "event_id" not in str(answer), "what the ranking knows is not shown to the model"
    assert [one.node_id for one in (await engine.aquery(QUERIES[2])).source_nodes] == [
        one.node_id for one in answer.source_nodes
    ]


def scripted(**arguments: Any) -> MockFunctionCallingLLM:
    """Calls the tool once with the arguments given, then answers with what the tool said."""

    def reply(messages: Any, **_: Any) -> ChatMessage:
        if messages[-1].role == "tool":
            return ChatMessage(role="assistant", content=messages[-1].content)
        call = ToolCallBlock(tool_call_id="c1", tool_name="search_documents", tool_kwargs=arguments)
        return ChatMessage(role="assistant", blocks=[call])

    return MockFunctionCallingLLM(response_generator=reply, is_chat_model=True)


@pytest.mark.parametrize("forged", [{}, {"ctx": {"principal": {"id": "bob", "groups": ["group:guests"]}}}])
async def test_agents_search_as_the_principal_of_their_workflow(
    acl_index: LateInteractionIndex, forged: dict[str, Any]
) -> None:
    tools = LateInteractionToolSpec(acl_index, k=50, context_key="principal").to_tool_list()
    agent = FunctionAgent(tools=tools, llm=scripted(query=QUERIES[0], **forged), streaming=False)
    for name, grant in (("alice", "group:staff"), ("bob", "group:guests")):
        context: Context[Any] = Context(agent)
        await context.store.set("principal", {"id": name, "groups": [grant]})
        said = str(await agent.run(QUERIES[0], ctx=context))
        shown = {int(number) for number in re.findall(r'source="https://notes.example/(\d+)"', said)}
        assert shown == {number for number in range(50) if grant in readers(number)}
    said = str(await agent.run(QUERIES[0], ctx=Context(agent)))
    assert "<passage" not in said
    (tool,) = tools
    with pytest.raises((AccessDenied, ValueError)):
        await tool.acall(query=QUERIES[0], **forged)


def test_one_source_of_the_principal(open_index: LateInteractionIndex) -> None:
    with pytest.raises(InputError, match="principal"):
        LateInteractionToolSpec(open_index, principal=ALICE, context_key="principal")


def test_llama_index_nodes_go_in_and_come_out(quick_path: Path, encoder: HashedEncoder) -> None:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as index:
        node = TextNode(text="The cat sat.", id_="n1", metadata={"day": datetime.date(2026, 1, 2)})
        assert index.add([node, NodeWithScore(node=TextNode(text="A dog.", id_="n2"))]).added == 2
        (found, *_) = LateInteractionRetriever(index).retrieve("cat")
        assert (found.node.ref_doc_id, found.node.metadata["day"]) == ("n1", "2026-01-02")
