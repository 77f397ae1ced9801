"""Every document once: the best passage of each, as many documents as wanted, under the same walls and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lir_agents import Document, LateInteractionIndex, Principal, SearchResult
from lir_agents.policy import AclPolicy
from tests.hashed_encoder import HashedEncoder

ANN = Principal("ann", groups=["staff"])
ROOT = Principal("root", groups=["staff", "board"])
QUERY = "the cat and the leave of rule 3"


def long(about: str, parts: int) -> str:
    return "\n\n".join(f"Rule {n} of {about}. " + f"The cat takes leave by rule {n}. " * 12 for n in range(parts))


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    policy = AclPolicy(rights={"replay": ["board"]})
    with LateInteractionIndex.open(quick_path / "i.lir", access=policy, encoder=encoder) as opened:
        opened.add(
            [
                Document(id="book", text=long("the book", 260), acl=["staff"]),
                Document(id="secret", text=long("the secret", 150), acl=["board"]),
                *(
                    Document(id=f"note/{n}", text=f"Note {n} is of something else.", acl=["staff"])
                    for n in range(5)
                ),
            ]
        )
        yield opened


def documents(result: SearchResult) -> list[str]:
    return [hit.document_id for hit in result]


def test_it_is_the_first_hit_of_each_document(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "small.lir", encoder=encoder) as small:
        small.add([Document(id=f"d{n}", text=long(f"the book {n}", 1 + n % 4)) for n in range(12)])
        every = small.search(QUERY, k=100)
        firsts = {hit.document_id: (hit.passage_id, hit.score) for hit in reversed(every)}
        wanted = sorted(firsts.values(), key=lambda one: -one[1])
        for k in (1, 5, 12, 50):
            once = small.search(QUERY, k=k, one_per_document=True)
            assert [(hit.passage_id, hit.score) for hit in once] == wanted[:k]
            assert [hit.rank for hit in once] == list(range(1, len(once) + 1))


async def test_long_documents_leave_room_for_others_and_no_more_is_seen_than_may_be(index):
    assert set(documents(index.search(QUERY, k=7, principal=ROOT))) <= {"book", "secret"}
    mine = index.search(QUERY, k=7, principal=ANN, one_per_document=True)
    assert sorted(documents(mine)) == ["book", *(f"note/{n}" for n in range(5))]
    assert len(index.search(QUERY, k=7, principal=ROOT, one_per_document=True)) == 7
    assert documents(await index.asearch(QUERY, k=7, principal=ANN, one_per_document=True)) == documents(mine)
    assert len(index.search(QUERY, k=2, principal=ANN, one_per_document=True)) == 2
    assert len(index.audit.events(kind="retrieval")) == 5


def test_a_replay_asks_the_same_way(index):
    result = index.search(QUERY, k=4, principal=ANN, one_per_document=True)
    report = index.replay(result.event_id, principal=ROOT)
    assert report.same
    assert len(report.replayed) == 4
    plain = index.search(QUERY, k=4, principal=ANN)
    assert index.replay(plain.event_id, principal=ROOT).same
