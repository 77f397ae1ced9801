"""What is erased while somebody is being answered: none of it is written afterwards, or shown to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import lir_agents.governed as governed
import lir_agents.graph.nodes as nodes
from lir_agents import Document, LateInteractionIndex, Principal, StoreError
from lir_agents.audit import payloads
from lir_agents.graph.in_flight import InFlight
from lir_agents.ingest.redact_keeping import VaultFile
from lir_agents.policy import AclPolicy
from tests.hashed_encoder import HashedEncoder

ANN = Principal("ann", groups=["staff"])
NAME = b"zebra-doc-777"
ZEBRA = Document(id=NAME.decode(), text="The quick zebra leaves the office at noon.", acl=["staff"])
SOUP = Document(id="soup", text="Soup and salad are served at noon.", acl=["staff"])


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as opened:
        opened.add([ZEBRA, SOUP])
        yield opened


class Held:
    """Holds a function back until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.reached, self._let_go = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def held(*args, **kwargs):
            self.reached.set()
            assert self._let_go.wait(30)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, held)

    def let_go(self) -> None:
        self._let_go.set()


def naming(path: Path) -> list[str]:
    """Files of the index that name the document."""
    return [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and NAME in file.read_bytes()]


def test_a_search_that_found_it_before_writes_its_name_before_it_is_erased(index, monkeypatch):
    held = Held(monkeypatch, nodes, "record_event")
    with ThreadPoolExecutor(2) as threads:
        search = threads.submit(index.search, "zebra noon", principal=ANN, thread_id="t")
        assert held.reached.wait(30)
        erase = threads.submit(index.erase, [ZEBRA.id])
        assert not wait([erase], timeout=1).done  # it waits, and would be over in milliseconds
        held.let_go()
        assert [hit.document_id for hit in search.result()] == [ZEBRA.id, SOUP.id]
        assert erase.result() == 1
    assert naming(index.path) == []
    assert index.verify() == []
    assert [hit.document_id for hit in index.search("zebra noon", principal=ANN)] == [SOUP.id]


def test_a_read_that_found_it_before_writes_its_name_before_it_is_erased(index, monkeypatch):
    held = Held(monkeypatch, index, "_record")
    with ThreadPoolExecutor(2) as threads:
        read = threads.submit(index.get, ZEBRA.id, principal=ANN)
        assert held.reached.wait(30)
        erase = threads.submit(index.erase, [ZEBRA.id])
        assert not wait([erase], timeout=1).done
        held.let_go()
        assert read.result().text == ZEBRA.text
        assert erase.result() == 1
    assert naming(index.path) == []


ACTS = {
    "rollback": ("version", lambda index: index.rollback(ZEBRA.id, 1, principal=ANN)),
    "rollback_to": ("version", lambda index: index.rollback_to(1, principal=ANN)),
    "reveal": ("decision", lambda index: index.reveal(ZEBRA.id, "[EMAIL_1]", principal=ANN)),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_act_that_found_it_before_writes_its_name_before_it_is_erased(quick_path, encoder, monkeypatch, act):
    policy = AclPolicy(rights={right: ["staff"] for right in ("rollback", "vault:read")})
    opening = {"access": policy, "encoder": encoder, "redactor": True}
    vault = VaultFile(quick_path / "apart.vault", bytes(32))
    written, doing = ACTS[act]
    with LateInteractionIndex.open(quick_path / "i.lir", vault=vault, **opening) as index:
        index.add([replace(ZEBRA, text="Write to zebra@example.org.")])
        index.add([ZEBRA])
        if act == "reveal":
            index.rollback(ZEBRA.id, 1, principal=ANN)
        held = Held(monkeypatch, payloads, written)
        with ThreadPoolExecutor(2) as threads:
            acting = threads.submit(doing, index)
            assert held.reached.wait(30)
            erasing = threads.submit(index.erase, [ZEBRA.id])
            assert not wait([erasing], timeout=1).done
            held.let_go()
            assert wait([acting], timeout=30).done
            assert erasing.result() >= 2
        assert naming(index.path) == []


def test_an_answer_that_hangs_does_not_hold_erasing_up_and_is_told(index, monkeypatch):
    monkeypatch.setattr(governed, "_SETTLED_IN_S", 0.05)
    held = Held(monkeypatch, nodes, "record_event")
    with ThreadPoolExecutor(1) as threads:
        search = threads.submit(index.search, "zebra noon", principal=ANN, thread_id="t")
        assert held.reached.wait(30)
        with pytest.raises(StoreError, match="Call erase again") as raised:
            index.erase([ZEBRA.id])
        assert raised.value.retryable
        assert index.get(ZEBRA.id, principal=ANN) is None  # it is erased all the same
        held.let_go()
        search.result()
    assert naming(index.path)  # what the late answer wrote
    index.erase([ZEBRA.id])
    assert naming(index.path) == []


def test_conversations_forget_also_where_the_log_cannot_be_erased_now(index, monkeypatch):
    index.search("zebra noon", principal=ANN, thread_id="t")

    def busy(*_: object, **__: object) -> int:
        raise StoreError("is being read", store="audit", operation="erase", retryable=True)

    with monkeypatch.context() as patched:
        patched.setattr(index.rooms.audit, "erase_documents", busy)
        with pytest.raises(StoreError, match="is being read"):
            index.erase([ZEBRA.id])
    (entry,) = index.memory.recall(ANN, "t", set)
    assert not any(ZEBRA.id in name for name in entry.passage_ids)
    index.erase([ZEBRA.id])
    assert naming(index.path) == []


@pytest.mark.parametrize("read", ["get", "diff"])
def test_a_document_is_judged_by_its_own_access_list_and_not_by_that_of_one_added_under_its_name(
    index, monkeypatch, read
):
    """Erased and added for other readers between two reads of the catalog, where there were two."""
    monkeypatch.setattr(governed, "_SETTLED_IN_S", 0)
    index.add([Document(id="d", text="Secret of the board.", acl=["board"])])
    catalog, swapped = index.rooms.catalog, []

    def swap() -> None:
        if not swapped:
            swapped.append(True)
            with suppress(StoreError):  # it would wait for the very read that it happens in
                index.erase(["d"])
            index.add([Document(id="d", text="For everybody.", acl=["ann"])])

    for name in ("document", "versions", "standing"):
        real = getattr(catalog, name)

        def then_swapped(*args, real=real):
            found = real(*args)
            swap()
            return found

        monkeypatch.setattr(catalog, name, then_swapped)
    asked = {"get": lambda: index.get("d", principal=ANN), "diff": lambda: index.diff("d", 1, 1, principal=ANN)}
    assert "Secret" not in repr(asked[read]())
    assert swapped


def test_those_who_come_later_are_not_waited_for():
    flights = InFlight()
    first, second = threading.Event(), threading.Event()

    def answer(until: threading.Event, begun: threading.Event) -> None:
        with flights.answering():
            begun.set()
            until.wait(30)

    begun = threading.Event()
    with ThreadPoolExecutor(3) as threads:
        threads.submit(answer, first, begun)
        assert begun.wait(30)
        assert not flights.settled(0)
        waiting = threads.submit(flights.settled, 30)
        later = threading.Event()
        threads.submit(answer, second, later)
        assert later.wait(30)
        first.set()
        assert waiting.result()
        second.set()
    assert flights.settled(0)
