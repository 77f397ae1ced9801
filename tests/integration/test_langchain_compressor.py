"""`LateInteractionCompressor`: reranks anybody's documents, encodes each text once, changes nothing it is given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from lir_agents import InputError, IntegrityError
from lir_agents.encoding.base import Encoder
from lir_agents.graph.texts import TextReranker
from lir_agents.langchain import LateInteractionCompressor
from lir_agents.stores.token_cache import DiskTokenCache, MemoryTokenCache
from tests.doors import QUERIES, documents
from tests.hashed_encoder import HashedEncoder

pytestmark = [
    pytest.mark.filterwarnings("error::DeprecationWarning"),
    pytest.mark.filterwarnings("error::PendingDeprecationWarning"),
]


def found(count: int = 8) -> list[Document]:
    return [
        Document(page_content=one.text, metadata={"source": one.source_uri, "nested": {"n": [n]}})
        for n, one in enumerate(documents(count))
    ]


@pytest.mark.parametrize("where", ["memory", "disk"])
async def test_the_second_time_encodes_nothing(encoder: HashedEncoder, tmp_path: Path, where: str) -> None:
    path = tmp_path / "cache" if where == "disk" else None
    compressor = LateInteractionCompressor(encoder=encoder, cache_path=path)
    first = compressor.compress_documents(found(), QUERIES[0])
    assert sorted(encoder.documents) == sorted(document.page_content for document in found())
    encoder.documents.clear()
    assert compressor.compress_documents(found(), QUERIES[0]) == first
    assert await compressor.acompress_documents(found(), QUERIES[0]) == first
    assert encoder.documents == []
    compressor.compress_documents([*found(), Document(page_content="something new")], QUERIES[0])
    assert encoder.documents == ["something new"]
    compressor.close()
    if path is not None:
        encoder.documents.clear()
        reopened = LateInteractionCompressor(encoder=encoder, cache_path=path)
        assert reopened.compress_documents(found(), QUERIES[0]) == first
        assert encoder.documents == []
        reopened.close()


@pytest.mark.parametrize("half", ["younger", "older"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "without a checksum", "another's"])
def test_an_entry_that_is_damaged_is_encoded_again(
    encoder: HashedEncoder, tmp_path: Path, damage: str, half: str
) -> None:
    def compressed(cache_bytes: int = 1 << 20) -> list[Document]:
        encoder.documents.clear()
        compressor = LateInteractionCompressor(encoder=encoder, cache_path=path, cache_bytes=cache_bytes)
        output = list(compressor.compress_documents(found(), QUERIES[0]))
        compressor.close()
        return output

    def change(txn: Any, databases: dict[bytes, Any]) -> None:
        (one, value), (other, _), *_ = [(bytes(key), bytes(held)) for key, held in txn.cursor(databases[b"a"])]
        if damage == "flipped":
            value = value[:-20] + bytes([value[-20] ^ 1]) + value[-19:]
        elif damage != "another's":
            value = value[: len(value) // 2 if damage == "cut" else -4]
        txn.put(other if damage == "another's" else one, value, db=databases[b"a"])

    path = tmp_path / "cache"
    first = compressed(1 << 20 if half == "younger" else 1)  # a half that is full becomes the older one
    cache = DiskTokenCache(path, fingerprint=encoder.fingerprint, dense_dim=encoder.dense_dim)
    cache._file.write("damage", change)
    cache.close()
    assert compressed() == first
    assert len(encoder.documents) == 1
    assert compressed() == first
    assert encoder.documents == []


def test_inputs_stay_as_they_were(encoder: HashedEncoder) -> None:
    given_documents = found()
    before = copy.deepcopy(given_documents)
    output = LateInteractionCompressor(encoder=encoder, top_n=3).compress_documents(given_documents, QUERIES[0])
    assert given_documents == before
    assert len(output) == 3
    for rank, document in enumerate(output, start=1):
        known = document.metadata["lir"]
        assert known["rank"] == rank
        assert sum(known["breakdown"].values()) == pytest.approx(known["score"])
        assert document.metadata["source"].startswith("https://")
    assert [one.metadata["lir"]["score"] for one in output] == sorted(
        (one.metadata["lir"]["score"] for one in output), reverse=True
    )


def test_documents_without_ids_and_equal_texts_all_come_back(encoder: HashedEncoder) -> None:
    given_documents = [
        Document(page_content="the cat sat", metadata={"n": 0}),
        Document(page_content="rent an office", metadata={"n": 1}, id="x"),
        Document(page_content="the cat sat", metadata={"n": 2}),
        Document(page_content="", metadata={"n": 3}, id="x"),
    ]
    output = LateInteractionCompressor(encoder=encoder).compress_documents(given_documents, "the cat")
    assert sorted(document.metadata["n"] for document in output) == [0, 1, 2, 3]
    order = [document.metadata["n"] for document in output]
    assert order.index(0) < order.index(2), "of equal texts the one that stood first stays first"
    assert len(encoder.documents) == 3
    assert LateInteractionCompressor(encoder=encoder).compress_documents([], "the cat") == []


def test_it_knows_better_than_the_order_it_is_given(encoder: HashedEncoder) -> None:
    texts = ["we talked about zurich", "the table is long", "the cat sat on the mat", "a word of a dog"]
    for shift in range(len(texts)):
        turned = [Document(page_content=text) for text in texts[shift:] + texts[:shift]]
        best, *_ = LateInteractionCompressor(encoder=encoder).compress_documents(turned, "the cat sat on the mat")
        assert best.page_content == "the cat sat on the mat"


def test_what_is_wrong_is_named(encoder: HashedEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query"):
        LateInteractionCompressor(encoder=encoder).compress_documents(found(), " ")
    with pytest.raises(ValueError, match="encoder"):
        LateInteractionCompressor(encoder=3)
    DiskTokenCache(tmp_path / "c", fingerprint="other", dense_dim=encoder.dense_dim).close()
    with pytest.raises(IntegrityError) as refused:
        LateInteractionCompressor(encoder=encoder, cache_path=tmp_path / "c")
    assert refused.value.remedy == f"Remove the directory {str(tmp_path / 'c')!r}; the cache fills again."


@pytest.mark.parametrize("make", ["memory", "disk"])
def test_a_cache_stays_within_its_bytes(tiny_encoder: Encoder, tmp_path: Path, make: str) -> None:
    small = 40_000 if make == "memory" else 400_000
    cache: Any = (
        MemoryTokenCache(small)
        if make == "memory"
        else DiskTokenCache(
            tmp_path / "c",
            fingerprint=tiny_encoder.fingerprint,
            dense_dim=tiny_encoder.dense_dim,
            max_bytes=small,
        )
    )
    reranker = TextReranker(tiny_encoder, cache)
    unbounded = TextReranker(tiny_encoder)
    for start in range(0, 600, 60):
        texts = [
            f"the cat {number} talked about the server and the long table" for number in range(start, start + 60)
        ]
        assert reranker.rank("the cat", texts) == unbounded.rank("the cat", texts)
    if make == "memory":
        assert 0 < cache.size_bytes <= small
    else:
        # The file may hold what was dropped as free pages, and a batch beyond the bound before it is noticed.
        assert sum(file.stat().st_size for file in (tmp_path / "c").iterdir() if file.suffix == ".mdb") < 3 * small
        cache.close()


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=8), extra=st.text(max_size=30))
def test_ranking_is_a_permutation_whose_parts_sum_up(
    reranked: Callable[[str, list[str]], Any], texts: list[str], extra: str
) -> None:
    ranked = reranked("how many days " + extra, texts)
    assert sorted(one.position for one in ranked) == list(range(len(texts)))
    for one in ranked:
        assert sum(one.breakdown.values()) == pytest.approx(one.score)
    scores = [one.score for one in ranked]
    assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def reranked(tiny_encoder: Encoder) -> Callable[[str, list[str]], Any]:
    reranker = TextReranker(tiny_encoder)
    return lambda query, texts: reranker.rank(query, texts)
