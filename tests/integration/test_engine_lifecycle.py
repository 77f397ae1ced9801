"""Documents through their life: added, unchanged, changed, deleted, rolled into history, erased from every byte."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.codes import TokenCodec
from lir_agents.config import IngestSettings, Settings
from lir_agents.encoding.base import QueryText
from lir_agents.errors import ConfigError, IndexLocked, InputError, IntegrityError, LirError, StoreError
from lir_agents.stores.tokens import LmdbTokens
from tests.hashed_encoder import HashedEncoder

ROOT = Path(__file__).resolve().parents[2]


def handbook(edition: int = 1) -> list[Document]:
    """Twelve documents; every third changes from one edition to the next."""
    return [
        Document(
            id=f"rule/{i}",
            title=f"Rule {i}",
            text=f"# Rule {i}\n\nWhoever breaks rule {i} pays {i * 11} coins.\n\n"
            + (f"Edition {edition} of it." if i % 3 == 0 else "It stands since ever."),
            metadata={"number": i},
        )
        for i in range(12)
    ]


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as opened:
        yield opened


def test_unchanged_documents_are_not_encoded_again(index, encoder):
    first = index.add(handbook())
    assert (first.added, first.unchanged, len(encoder.documents)) == (12, 0, first.passages)
    encoder.documents.clear()
    epoch = index.stats()["epoch"]
    again = index.add(iter(handbook()))
    assert (again.added, again.updated, again.unchanged, again.passages) == (0, 0, 12, 0)
    assert encoder.documents == []
    assert index.stats()["epoch"] == epoch


def test_warming_up_reads_the_vectors_that_a_first_search_would(quick_path, encoder, monkeypatch):
    path = quick_path / "warm.lir"
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        index.warm_up()  # there is nothing to read
        index.add(handbook())
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        events, vectors = index.audit.size, index.rooms.vectors
        assert vectors.resident_bytes == 0
        index.warm_up()
        held = vectors.resident_bytes
        assert held > 0
        assert index.search("which edition", k=3).hits
        assert vectors.resident_bytes == held
        assert index.audit.size == events + 1  # warming up tells nobody anything
    for error in (StoreError("is away", store="vectors", operation="search"), RuntimeError("a room of one's own")):
        away_from(path, encoder, error, monkeypatch)


def away_from(path, encoder, error, monkeypatch):
    with LateInteractionIndex.open(path, encoder=encoder) as index:

        def away(*_: Any) -> Any:
            raise error

        monkeypatch.setattr(index.rooms.vectors, "search", away)
        index.warm_up()
        assert index.search("which edition", k=3).coverage.stages["first_stage"].status == "failed"


def test_a_changed_document_gets_a_version_and_its_old_one_retires(index, encoder):
    index.add(handbook(1))
    encoder.documents.clear()
    report = index.add(handbook(2))
    assert (report.added, report.updated, report.unchanged) == (0, 4, 8)
    assert 0 < len(encoder.documents) <= 4
    hits = index.search("which edition", k=50)
    assert len(hits) == 12
    assert {hit.version for hit in hits if "Edition" in hit.text} == {2}
    assert not any("Edition 1" in hit.text for hit in hits)
    assert "Edition 1" in index.get("rule/0", 1).text
    assert index.get("rule/0").info.version == 2
    assert index.get("rule/0", 3) is None


def test_what_matters_makes_a_version_and_what_does_not_does_not(index, encoder):
    base = {"id": "a", "text": "Some text.", "title": "T", "metadata": {"n": 1, "m": 2}}
    index.add([base])
    for change in ({"title": "U"}, {"metadata": {"n": 2}}, {"source_uri": "https://x.example"}):
        assert index.add([{**base, **change}]).updated == 1
    assert index.add([base]).updated == 1
    assert index.add([{**base, "metadata": {"m": 2, "n": 1}}]).unchanged == 1
    assert index.get("a").info.version == 5


def test_a_grant_that_is_taken_away_costs_no_encoding(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", access="acl", encoder=encoder) as index:
        alice = Principal("alice")
        index.add([Document(id="a", text="The plan.", acl=["alice", "bob"])])
        assert len(index.search("plan", principal=alice)) == 1
        encoder.documents.clear()
        assert index.add([Document(id="a", text="The plan.", acl=["bob"])]).updated == 1
        assert encoder.documents == []
        assert len(index.search("plan", principal=alice)) == 0
        assert len(index.search("plan", principal=alice, as_of=1)) == 0
        assert index.get("a", 1, principal=alice) is None
        assert len(index.search("plan", principal=Principal("bob"), as_of=1)) == 1


def test_delete_retires_and_keeps_history(index):
    index.add(handbook())
    assert index.delete(["rule/3", "unknown"]) == 1
    assert "rule/3" not in [hit.document_id for hit in index.search("rule", k=50)]
    assert index.get("rule/3") is None
    assert "rule 3" in index.get("rule/3", 1).text
    assert "rule/3" in [hit.document_id for hit in index.search("rule", k=50, as_of=1)]
    assert index.delete(["rule/3"]) == 0
    assert index.add(handbook()[3:4]).added == 1
    assert index.get("rule/3").info.version == 2


def test_the_past_can_be_searched_by_epoch_and_by_time(index):
    moments = []
    for edition in (1, 2, 3):
        index.add(handbook(edition))
        time.sleep(0.002)
        moments.append((index.stats()["epoch"], datetime.now(UTC)))
        time.sleep(0.002)
    index.delete(["rule/0"])
    for edition, (epoch, moment) in enumerate(moments, 1):
        by_epoch, by_time = (index.search("edition of rule 0", k=50, as_of=when) for when in (epoch, moment))
        assert [(h.passage_id, h.score) for h in by_epoch] == [(h.passage_id, h.score) for h in by_time]
        assert f"Edition {edition}" in next(hit.text for hit in by_epoch if hit.document_id == "rule/0")
        assert len(by_epoch) == 12
        by_epoch[0].explain()
    assert len(index.search("edition of rule 0", k=50)) == 11


def test_a_search_of_the_past_is_the_search_that_was_made_then(index):
    index.add(handbook(1))
    then = [(hit.passage_id, hit.score, hit.breakdown) for hit in index.search("pays coins edition", k=50)]
    epoch = index.stats()["epoch"]
    index.add(handbook(2))
    index.add([Document(id="new", text="Whoever pays coins gets an edition.")])
    index.delete(["rule/5"])
    now = [(h.passage_id, h.score, h.breakdown) for h in index.search("pays coins edition", k=50, as_of=epoch)]
    assert now == then


def test_an_iterator_that_breaks_loses_nothing_it_gave(index):
    def broken() -> Iterator[Document]:
        yield from handbook()[:5]
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="network is gone"):
        index.add(broken())
    assert sorted(hit.document_id for hit in index.search("rule", k=50)) == [f"rule/{i}" for i in range(5)]
    assert index.add(handbook()).unchanged == 5
    assert index.verify() == []


def test_progress_that_breaks_leaves_whole_batches(index):
    def stop(documents: int, passages: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add(handbook(), progress=stop)
    assert index.add(handbook()).unchanged == 12
    assert index.verify() == []


# ---------------------------------------------------------------- erasure


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def where(path: Path, needle: bytes) -> list[str]:
    return [name for name, content in bytes_of(path).items() if needle in content]


def test_erased_documents_are_in_no_byte_of_the_directory(tmp_path, encoder):
    path = tmp_path / "i.lir"
    editions = [f"The zanzibar quokka bonus of Wilhelmina is {n}7,{n}00 guilders, paid in brass." for n in (1, 2)]
    # The reader's own grants stay in the log, because a replay asks with them; the document's others do not.
    reader = Principal("auditor", groups=["staff:readers"])
    with LateInteractionIndex.open(path, access="acl", encoder=encoder) as index:
        index.add([Document(id=f"other/{i}", text=f"Other text {i}.", acl=["auditor"]) for i in range(300)])
        for text in editions:
            index.add(
                [
                    Document(
                        id="hr/xylophone",
                        title="Krakatoa memo",
                        text=text,
                        source_uri="file:///vesuvius.txt",
                        acl=["board:zirconium", "staff:readers"],
                        metadata={"obsidian-key": "obsidian-value"},
                    )
                ]
            )
        search = index.search("what is paid in metal", k=400, principal=reader)
        shown = next(hit for hit in search if hit.document_id == "hr/xylophone")
        naming = index.search("and hr/xylophone please", principal=reader, thread_id="hr/xylophone")
        plain = index.search("Other text 5", k=1, principal=reader)[0]
        digests = {index.get("hr/xylophone", n, principal=reader).info.content_sha256 for n in (1, 2)}
        (row,) = [hit.row for hit in search if hit.passage_id == shown.passage_id]
        pooled = index.rooms.tokens.pooled(np.array([row]))[0]
        (_, encoding), *_ = encoder.encode_documents([f"Krakatoa memo\n{editions[1]}"])
        chroma_vector = encoding.pooled.astype("<f4").tobytes()
        stored_tokens = TokenCodec(HashedEncoder.token_dim).encode(encoding.tokens).tobytes()

        needles = {
            "id": b"xylophone",
            "title": b"Krakatoa",
            "uri": b"vesuvius",
            "grant": b"zirconium",
            "metadata key": b"obsidian-key",
            "metadata value": b"obsidian-value",
            "old text": editions[0].encode(),
            "text": editions[1].encode(),
            "packed text": zlib.compress(editions[1].encode()),
            "stem": b"wilhelmina",
            "pooled": pooled.astype("<f2").tobytes()[: 2 * encoder.dense_dim],
            "vector": chroma_vector,
            "tokens": stored_tokens,
            **{f"digest {n}": digest.encode() for n, digest in enumerate(digests)},
        }
        absent_before = [name for name, needle in needles.items() if not where(path, needle)]
        assert absent_before in ([], ["pooled"])  # its last bit may differ from what is read back
        events = index.audit.size
        checkpointed = index.audit.root()
        assert index.erase(["hr/xylophone"]) == 2
        assert {name: where(path, needle) for name, needle in needles.items() if where(path, needle)} == {}

        assert index.audit.root(events) == checkpointed
        assert index.audit.verify().problems == ()
        assert index.verify() == []
        assert index.get("hr/xylophone", 1, principal=reader) is None
        for as_of in (None, 2, 3):
            again = index.search("what is paid in metal", k=400, principal=reader, as_of=as_of)
            assert "hr/xylophone" not in {hit.document_id for hit in again}
        with pytest.raises(InputError):
            shown.explain()
        assert index.audit.show(naming.event_id)["asked"]["query"] != "and hr/xylophone please"
        (erasure,) = index.audit.events(kind="erasure")
        assert index.audit.confirms(erasure.event_id, "hr/xylophone")
        assert index.search("Other text 5", k=1, principal=Principal("auditor"))[0].text == plain.text
    assert {name: where(path, needle) for name, needle in needles.items() if where(path, needle)} == {}
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        assert index.verify() == []
        index.add([Document(id="hr/xylophone", text="A new beginning.", acl=["auditor"])])
        assert index.get("hr/xylophone", principal=Principal("auditor")).info.version == 1


# ---------------------------------------------------------------- one owner, one encoder, open or closed


def test_a_second_handle_is_refused_and_says_who_holds_it(tmp_path, encoder):
    with LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder) as index:
        index.add(handbook())
        with pytest.raises(IndexLocked, match="this very process") as caught:
            LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder)
        assert caught.value.remedy
        assert len(index.search("rule", k=50)) == 12
    LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder).close()


def test_a_second_process_is_refused(tmp_path, encoder):
    path = tmp_path / "i.lir"
    LateInteractionIndex.open(path, encoder=encoder).close()
    code = (
        "import sys; from pathlib import Path; from lir_agents.stores.lock import IndexLock\n"
        "lock = IndexLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert other.stdout.readline() == "held\n"
        before = {name: content for name, content in bytes_of(path).items() if "lock" not in name}
        with pytest.raises(IndexLocked, match=f"process {other.pid} "):
            LateInteractionIndex.open(path, encoder=encoder)
        assert {name: content for name, content in bytes_of(path).items() if "lock" not in name} == before
    finally:
        other.communicate("")
    LateInteractionIndex.open(path, encoder=encoder).close()


@pytest.mark.parametrize("name", ["hashed", "another"])
def test_other_weights_are_refused_whatever_they_are_called(tmp_path, encoder, name):
    path = tmp_path / "i.lir"
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        index.add(handbook())
    with pytest.raises(IntegrityError, match="hashed") as caught:
        LateInteractionIndex.open(path, encoder=HashedEncoder(seed=1, name=name))
    assert "encoder it was made with" in caught.value.remedy
    with LateInteractionIndex.open(path, encoder=HashedEncoder(seed=0, name="renamed")) as index:
        assert len(index.search("rule", k=50)) == 12


def test_the_bundled_model_does_not_take_over_another_ones_index(tmp_path, encoder):
    path = tmp_path / "i.lir"
    LateInteractionIndex.open(path, encoder=encoder).close()
    with pytest.raises(LirError) as caught:
        LateInteractionIndex.open(path)
    assert caught.value.remedy
    with pytest.raises(IntegrityError):
        LateInteractionIndex.open(path, encoder="all-MiniLM-L6-v2")


def test_access_is_fixed_when_an_index_is_made(tmp_path, encoder):
    path = tmp_path / "i.lir"
    LateInteractionIndex.open(path, access="acl", encoder=encoder).close()
    with pytest.raises(InputError, match="access"):
        LateInteractionIndex.open(path, access="open", encoder=encoder)
    with LateInteractionIndex.open(path, encoder=encoder) as index:
        assert index.stats()["access"] == "acl"
    for wrong in ("public", None.__class__, 7):
        with pytest.raises(ConfigError):
            LateInteractionIndex.open(tmp_path / "new.lir", access=wrong, encoder=encoder)


def test_the_bits_of_token_vectors_are_fixed_when_an_index_is_made_and_not_before(tmp_path, encoder, monkeypatch):
    def opened(bits: Literal[2, 4, 8] | None) -> LateInteractionIndex:
        settings = Settings(ingest=IngestSettings(token_bits=bits))
        return LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder, settings=settings)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbTokens, "open", full_disk)
        with pytest.raises(StoreError, match="full"):
            opened(8)
    for bits in (2, None, 2):
        with opened(bits) as index:
            assert index.rooms.catalog.token_bits() == 2
    with pytest.raises(ConfigError, match=r"token_bits is 4, and this index was made with 2"):
        opened(4)


def full_disk(*_: Any, **__: Any) -> None:
    raise StoreError("the disk is full", store="tokens", operation="open")


def test_a_closed_index_says_so(tmp_path, encoder):
    index = LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder)
    index.add(handbook())
    hit = index.search("rule", k=1)[0]
    index.close()
    index.close()
    for call in (
        lambda: index.search("rule"),
        lambda: index.add(handbook()),
        lambda: index.delete(["a"]),
        lambda: index.erase(["a"]),
        lambda: index.get("a"),
        lambda: index.candidates("rule"),
        lambda: index.explain(hit),
        hit.explain,
        index.stats,
        index.verify,
        lambda: index.audit,
    ):
        with pytest.raises(InputError, match="closed"):
            call()


async def test_a_closed_index_says_so_to_tasks(tmp_path, encoder):
    index = LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder)
    index.close()
    with pytest.raises(InputError, match="closed"):
        await index.asearch("rule")


def test_closing_under_searches_gives_answers_or_typed_errors(tmp_path, encoder):
    index = LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder)
    index.add(handbook())
    outcomes: list[object] = []

    def ask() -> None:
        while True:
            try:
                outcomes.append(len(index.search("rule", k=50)))
            except Exception as error:
                outcomes.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    index.close()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(errors) == 3
    assert all(isinstance(error, InputError | StoreError) for error in errors), errors
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} == {12}
    with LateInteractionIndex.open(tmp_path / "i.lir", encoder=encoder) as again:
        assert again.verify() == []


def test_searches_during_writes_see_whole_documents(index):
    """A reader beside a writer never sees two editions of a document, nor one that was never whole."""
    index.add(handbook(0))
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            hits = index.search("edition of the rule", k=50)
            names = sorted(hit.document_id for hit in hits)
            texts_fit = all(
                index.get(hit.document_id, hit.version).text[hit.start : hit.end] == hit.text for hit in hits
            )
            if len(set(names)) != len(names) or not texts_fit:
                wrong.append(names)

    reader = threading.Thread(target=read)
    reader.start()
    for edition in range(1, 12):
        index.add(handbook(edition))
    done.set()
    reader.join(timeout=30)
    assert wrong == []
    assert index.get("rule/0").info.version == 12


def test_the_encoder_reads_a_context_for_the_tests_that_need_one(encoder):
    plain, same, steered = encoder.encode_queries(
        [QueryText("its office"), QueryText("its office"), QueryText("its office", "we spoke of Lisbon")]
    )
    assert np.array_equal(plain.tokens, same.tokens)
    assert not np.allclose(plain.tokens, steered.tokens)
    assert steered.tokens.shape == plain.tokens.shape
    assert np.allclose(np.linalg.norm(steered.tokens, axis=1), 1, atol=1e-6)
