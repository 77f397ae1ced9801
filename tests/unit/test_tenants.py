"""Tenants: nothing of one in another's answers, memory, caches or bytes; few indexes open at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lir_agents import Document, LateInteractionIndex, Principal, ToolSignal, Turn, VaultFile
from lir_agents.errors import AccessDenied, InputError, Overloaded
from lir_agents.tenants import TenantIndexes
from tests.hashed_encoder import HashedEncoder

# Each tenant's word; the ids, titles and most words are the same everywhere.
WORDS = {"aventro": "tyrannosaur", "zxbank": "zirconium", "../escape": "xylophone", "Aventro": "quokka"}
TOPICS = ("how to change a tyre", "awards and recognitions", "where to find the manual", "opening hours")


def corpus(tenant: str) -> list[Document]:
    return [
        Document(
            id=f"guide#{number}",
            title=topic,
            text=f"This is {topic}. Ask for the {WORDS[tenant]} at the desk, number {number}.",
            acl=["all"],
            metadata={"part": number},
        )
        for number, topic in enumerate(TOPICS)
    ]


def reader(tenant: str) -> Principal:
    return Principal("ann", groups=["all"], tenant=tenant)


def others(tenant: str) -> list[str]:
    return [word for name, word in WORDS.items() if name != tenant]


@pytest.fixture
def root(quick_path: Path) -> Path:
    return quick_path / "tenants"


@pytest.fixture(params=[1, 8], ids=["cold", "warm"])
def tenants(request: pytest.FixtureRequest, root: Path, encoder: HashedEncoder) -> Iterator[TenantIndexes]:
    """Every tenant filled; with one index open at a time every search is cold, with eight every one is warm."""
    with TenantIndexes.open(root, access="acl", encoder=encoder, max_open=request.param) as opened:
        for tenant in WORDS:
            assert opened.add(corpus(tenant), tenant=tenant).added == len(TOPICS)
        yield opened


def test_answers_memory_and_caches_stay_within_the_tenant(tenants, root):
    said = {tenant: [Turn("assistant", f"The {word} is blue.")] for tenant, word in WORDS.items()}
    for _ in range(2):  # the second round finds whatever the first one left in memory and caches
        for tenant, word in WORDS.items():
            for topic in TOPICS:
                result = tenants.search(
                    f"{topic} {' '.join(WORDS.values())}",
                    principal=reader(tenant),
                    thread_id="shared",
                    history=said[tenant],
                    tool_signals=[ToolSignal("desk", {"document_id": "guide#1", "word": word})],
                    k=50,
                )
                assert len(result) == len(TOPICS)
                shown = repr([hit.to_dict() for hit in result])
                assert word in shown
                assert not [other for other in others(tenant) if other in shown]
            with tenants.of(reader(tenant)) as index:
                entries = repr(index.memory.recall(reader(tenant), "shared", set))
            assert word in entries
    tenants.close()
    found = [holding(root, word) for word in WORDS.values()]
    assert [len(where) for where in found] == [1] * len(WORDS), found
    assert len({name for where in found for name in where}) == len(WORDS)


def everything(directory: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in directory.rglob("*") if file.is_file())


def holding(root: Path, word: str) -> dict[str, list[str]]:
    """By directory, the files that hold a tenant's text."""
    needle = f"Ask for the {word}".encode()
    found: dict[str, list[str]] = {}
    for file in root.rglob("*"):
        if file.is_file() and needle in file.read_bytes():
            directory, *rest = file.relative_to(root).parts
            found.setdefault(directory, []).append("/".join(rest))
    return found


def test_scores_are_those_of_the_tenant_alone(tenants, quick_path, encoder):
    with TenantIndexes.open(quick_path / "alone", access="acl", encoder=encoder) as alone:
        alone.add(corpus("zxbank"), tenant="zxbank")
        for topic in TOPICS:
            mine, theirs = (some.search(topic, principal=reader("zxbank")) for some in (alone, tenants))
            assert [hit.to_dict() for hit in mine] == [hit.to_dict() for hit in theirs]


def test_interleaved_callers_never_cross(tenants):
    def ask(number: int) -> bool:
        tenant = list(WORDS)[number % len(WORDS)]
        shown = repr(list(tenants.search(TOPICS[number % 3], principal=reader(tenant), thread_id="t")))
        return WORDS[tenant] in shown and not any(other in shown for other in others(tenant))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(24)))


def test_who_is_of_no_tenant_is_refused_and_makes_nothing(tenants, root):
    before = sorted(root.iterdir())
    for principal in (Principal("ann", groups=["all"]), None, "aventro"):
        with pytest.raises(AccessDenied, match="no tenant"):
            tenants.search("tyre", principal=principal)
    with pytest.raises(InputError, match="has no index"):
        tenants.search("tyre", principal=reader("nobody"))
    for tenant in ("", None):
        with pytest.raises(InputError, match="tenant"):
            tenants.add([], tenant=tenant)
    assert sorted(root.iterdir()) == before


def test_few_indexes_are_open_at_a_time(root, encoder):
    with TenantIndexes.open(root, access="acl", encoder=encoder, max_open=2, wait_s=0.2) as tenants:
        for tenant in WORDS:
            tenants.add(corpus(tenant), tenant=tenant)
            assert len(tenants._slots) <= 2
        with tenants.of(reader("aventro")) as first, tenants.of(reader("zxbank")) as second:
            with pytest.raises(Overloaded):
                tenants.search("tyre", principal=reader("Aventro"))
            assert tenants.search("tyre", principal=reader("aventro"))[0].document_id
            assert first.stats()["documents"] == len(TOPICS)
        assert tenants.search("tyre", principal=reader("Aventro"))
        assert first.stats()["documents"] == len(TOPICS)  # used last of the two
        with pytest.raises(InputError, match="closed"):
            second.stats()


def test_a_caller_waits_for_an_index_that_comes_free(root, encoder):
    with TenantIndexes.open(root, access="acl", encoder=encoder, max_open=1, wait_s=20) as tenants:
        for tenant in ("aventro", "zxbank"):
            tenants.add(corpus(tenant), tenant=tenant)
        found = []
        with tenants.of(reader("aventro")):
            waiting = threading.Thread(
                target=lambda: found.append(tenants.search("awards", principal=reader("zxbank")))
            )
            waiting.start()
            waiting.join(0.2)
            assert found == []
        waiting.join(20)
        assert len(found[0]) == len(TOPICS)


def test_a_tenant_leaves_with_every_byte(root, encoder):
    with TenantIndexes.open(root, access="acl", encoder=encoder) as tenants:
        for tenant in ("aventro", "zxbank"):
            tenants.add(corpus(tenant), tenant=tenant)
        assert tenants.erase_tenant("aventro")
        assert not tenants.erase_tenant("aventro")
        assert "tyrannosaur" not in everything(root)
        assert tenants.search("awards", principal=reader("zxbank"))
        with pytest.raises(InputError, match="has no index"):
            tenants.search("tyre", principal=reader("aventro"))
    with pytest.raises(InputError, match="closed"):
        tenants.search("awards", principal=reader("zxbank"))


def test_one_vault_does_not_join_the_tenants(root, encoder, tmp_path):
    with pytest.raises(InputError, match="every tenant"):
        TenantIndexes.open(root, encoder=encoder, redactor=True, vault=VaultFile(tmp_path / "v", bytes(32)))


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Indexes open and stay out of reach until told: set once one is open, and to be set."""
    is_open, go = threading.Event(), threading.Event()

    class Slow(LateInteractionIndex):
        @classmethod
        def open(cls, *args: Any, **options: Any) -> Any:
            index = LateInteractionIndex.open(*args, **options)
            is_open.set()
            go.wait(20)
            return index

    monkeypatch.setattr("lir_agents.tenants.LateInteractionIndex", Slow)
    return is_open, go


@pytest.mark.parametrize("patient", [True, False])
def test_what_is_opened_while_all_are_closed_is_closed_too(root, encoder, slowly, patient):
    is_open, go = slowly
    tenants = TenantIndexes.open(root, access="acl", encoder=encoder, wait_s=20 if patient else 0.05)
    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(tenants.add, corpus("aventro"), tenant="aventro")
        assert is_open.wait(20)
        closing = threads.submit(tenants.close)
        if not patient:
            closing.result(20)
        while not tenants._closed:
            pass
        with pytest.raises(InputError, match="closed"):  # nobody waits behind a closed door
            tenants.search("tyre", principal=reader("aventro"))
        assert closing.done() is not patient
        go.set()
        with pytest.raises(InputError, match="is closed"):
            adding.result(20)
        closing.result(20)
    with TenantIndexes.open(root, access="acl", encoder=encoder) as again:
        assert again.add(corpus("aventro"), tenant="aventro").added == len(TOPICS)


def test_an_index_that_fails_to_close_keeps_no_other_open(root, encoder, monkeypatch):
    tenants = TenantIndexes.open(root, access="acl", encoder=encoder)
    for tenant in WORDS:
        tenants.add(corpus(tenant), tenant=tenant)
    indexes = [slot.index for slot in tenants._slots.values()]

    def failing() -> None:
        raise OSError("the disk is gone")

    for index in indexes[1:3]:
        monkeypatch.setattr(index, "close", failing)
    with pytest.raises(OSError, match="gone"):
        tenants.close()
    monkeypatch.undo()
    for index in (indexes[0], indexes[3]):
        with pytest.raises(InputError, match="closed"):
            index.stats()
    for index in indexes[1:3]:
        index.close()
