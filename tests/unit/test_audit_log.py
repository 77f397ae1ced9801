"""What the log records, gives back, shows and exports."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lir_agents.audit import AuditEvent, AuditLog, Erasable, flush, payloads, verify_inclusion
from lir_agents.audit.merkle import leaf_hash
from lir_agents.errors import InputError, IntegrityError, StoreError
from lir_agents.reports import AddReport
from lir_agents.types import Coverage, Decision, Hit, Principal, StageCoverage

ALICE = Principal("alice", groups=["group:staff"], tenant="acme")
SECOND_NS = 1_000_000_000


def hit(rank: int, document_id: str, version: int = 1) -> Hit:
    return Hit(
        rank=rank,
        score=0.1 + 0.2,
        text="the passage's text",
        title="",
        document_id=document_id,
        passage_id=f"{document_id}#0",
        version=version,
        source="",
        source_uri="",
        content_sha256="ab" * 32,
        start=0,
        end=1,
        metadata={},
        breakdown={"dense": 0.1, "maxsim": 0.2},
    )


def search(query: str = "days off", *documents: str, **more) -> AuditEvent:
    return payloads.retrieval(
        ALICE,
        query=query,
        decision=Decision(True, "search", "alice", "a grant of the principal", epoch=7),
        hits=[hit(rank, name, version=rank + 1) for rank, name in enumerate(documents, 1)],
        candidates=42,
        k=5,
        coverage=Coverage({"first_stage": StageCoverage("ok", "", 1.5)}),
        generation="fingerprint",
        index_epoch=3,
        thread_id="thread-1",
        **more,
    )


@pytest.fixture
def log(tmp_path):
    with AuditLog.open(tmp_path / "audit.sqlite", durability="process") as opened:
        yield opened


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_show_says_who_what_why_under_which_policy_from_which_version(log):
    event_id = log.append(search("days off", "hr/leave", "hr/sick"), {"query": "days off", "history": []})
    log.append(AuditEvent("decision"))
    shown = log.show(event_id)
    assert shown["who"] == {"principal": "alice", "tenant": "acme", "thread": "thread-1"}
    assert shown["asked"] == {"query": "days off", "k": 5, "filter": None, "as_of": None}
    assert shown["policy"] == {
        "allowed": True,
        "action": "search",
        "reason": "a grant of the principal",
        "epoch": 7,
    }
    first = shown["surfaced"][0]
    assert (first["document_id"], first["passage_id"], first["version"]) == ("hr/leave", "hr/leave#0", 2)
    assert first["content_sha256"] == "ab" * 32
    assert list(first["why"]) == ["maxsim", "dense"]
    assert first["score"] == 0.1 + 0.2  # exactly
    assert shown["source"] == {"generation": "fingerprint", "index_epoch": 3, "candidates": 42, "settings": ""}
    assert shown["replay"] == {"query": "days off", "history": []}
    assert shown["proof"]["holds"]
    assert shown["proof"]["root"] == log.root().hex()
    json.dumps(shown)


def test_events_are_listed_filtered_and_paged_in_order(tmp_path):
    now = iter(range(1_000, 1_010))
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=lambda: next(now) * SECOND_NS) as log:
        kinds = ["ingest", "decision", "ingest", "decision", "erasure"]
        ids = [log.append(AuditEvent(kind, "bob" if kind == "ingest" else "eve")) for kind in kinds]
        assert [event.event_id for event in log.events()] == ids
        assert [event.position for event in log.events(kind="decision")] == [1, 3]
        assert [event.position for event in log.events(principal_id="bob")] == [0, 2]
        since, until = datetime.fromtimestamp(1_001, UTC), datetime.fromtimestamp(1_003, UTC)
        assert [event.position for event in log.events(since=since, until=until)] == [1, 2]
        assert [event.position for event in log.events(after=ids[1], limit=2)] == [2, 3]
        assert len(log.events(limit=2**70)) == len(log.newest("ingest", 2**70)) + 3 == 5


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": -(2**70)}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"principal_id": "\ud800"}, "principal_id"),
        ({"principal_id": 5}, "principal_id"),
        ({"kind": "\ud800"}, "kind"),
        ({"since": datetime(2026, 1, 1)}, "since"),
        ({"until": "yesterday"}, "until"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_question_to_the_log_that_is_none_names_its_field(log, asked, field):
    with pytest.raises(InputError) as refused:
        log.events(**asked)
    assert refused.value.field == field
    if "limit" in asked:
        with pytest.raises(InputError, match="limit"):
            log.newest("decision", asked["limit"])


def test_time_never_goes_backwards_and_the_clock_is_kept(tmp_path):
    now = iter([100, 50, 50, 200])
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=lambda: next(now) * SECOND_NS) as log:
        for _ in range(2):
            log.append(AuditEvent("decision"))
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=lambda: next(now) * SECOND_NS) as log:
        for _ in range(2):
            log.append(AuditEvent("decision"))
        assert [event.clock[17:19] for event in log.events()] == ["40", "50", "50", "20"]
        assert [event.time[14:19] for event in log.events()] == ["01:40", "01:40", "01:40", "03:20"]
        assert log.verify().ok


def test_an_unknown_or_malformed_id_is_refused(log):
    for event_id in ("", "zz", "ab" * 16, "é"):
        with pytest.raises(InputError, match="event_id"):
            log.get(event_id)


def test_nothing_is_recorded_when_one_event_of_many_is_bad(log):
    with pytest.raises(InputError, match=r"payload\.x"):
        log.append_many([AuditEvent("decision"), AuditEvent("decision", payload={"x": float("nan")})])
    with pytest.raises(InputError, match=r"event\.kind"):
        AuditEvent("gossip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="principal_id"):
        AuditEvent("decision", "\ud800")
    assert log.size == 0


def test_the_sealed_body_is_given_back_and_forgotten(log, tmp_path):
    body = {"query": "wordsofthecaller", "history": [{"role": "user", "text": "earlier"}], "weight": 0.1}
    first = log.append(search("wordsofthecaller", "hr/leave"), body)
    second = log.append(search("otherwords", "hr/leave"), {"query": "otherwords"})
    bare = log.append(AuditEvent("decision"))
    root, proof = log.root(), log.inclusion_proof(first)
    assert log.unseal(first) == body
    assert log.confirms(first, "wordsofthecaller")
    assert not log.confirms(first, "wordsofthecaller ")

    assert log.erase_sealed([first]) == 3  # the body, the query, the thread
    assert log.get(first).sealed == "erased"
    assert log.get(second).sealed == "present"
    assert log.get(bare).sealed == "none"
    with pytest.raises(InputError, match="erased"):
        log.unseal(first)
    with pytest.raises(InputError, match="no sealed"):
        log.unseal(bare)
    assert not log.confirms(first, "wordsofthecaller")
    assert log.show(first)["surfaced"][0]["document_id"] == "hr/leave"  # what surfaced stays
    assert log.root() == root
    assert verify_inclusion(proof.leaf, proof.index, proof.size, proof.path, root)
    assert log.verify().ok
    assert log.verify().erased == 3
    assert b"wordsofthecaller" not in contents(tmp_path)
    assert log.erase_sealed(predicate=lambda event: event.payload.get("query") == "otherwords") == 3
    assert b"otherwords" not in contents(tmp_path)


def test_erased_documents_leave_no_name_in_the_bytes(log, tmp_path):
    documents = [("hr/leave", 1, "ab" * 32), ("hr/leave2", 1, "cd" * 32)]
    report = AddReport(added=2, passages=2)
    ingested = log.append(payloads.ingest(ALICE, documents=documents, report=report, generation="g", index_epoch=1))
    found = log.append(search("days off", "hr/leave", "hr/leave2"), {"query": "days off"})
    naming = log.append(search("what says hr/leave?", "hr/leave2"), {"history": ["see hr/leave."]})
    cited = log.append(search("x", "hr/leave2"), {"history": [{"passage_ids": ["opaque-7"]}]})
    near = log.append(search("what says hr/leave2?"), {"history": ["see hr/leave2."]})
    root = log.root()

    log.erase_documents(["hr/leave"], mentions=["opaque-7"])
    receipt = log.append(payloads.erasure(ALICE, document_ids=["hr/leave"], rows=1, index_epoch=2))
    log.compact()

    assert log.root(5) == root
    assert log.verify().ok
    documents_shown = log.get(ingested).payload["documents"]
    assert "$erased" in documents_shown[0]["document"]
    assert documents_shown[1]["document"]["document_id"] == "hr/leave2"
    surfaced = log.show(found)["surfaced"]
    assert [(entry["rank"], entry["version"], entry["erased"]) for entry in surfaced] == [
        (1, 2, True),
        (2, 3, False),
    ]
    assert log.get(found).sealed == "present"
    assert log.get(naming).sealed == "erased"
    assert log.get(cited).sealed == "erased"
    assert log.unseal(near) == {"history": ["see hr/leave2."]}
    assert log.confirms(receipt, "hr/leave")  # provable by whoever knows the id, readable by nobody
    left = contents(tmp_path)
    assert b"hr/leave2" in left
    assert b"hr/leave" not in left.replace(b"hr/leave2", b"")
    assert b"opaque-7" not in left


def test_jsonl_export_is_enough_to_recompute_the_root(log):
    for number in range(5):
        log.append(search(f"query {number}", "hr/leave"), {"query": f"query {number}"})
    lines = [json.loads(line) for line in log.export()]
    leaves = [leaf_hash(line["body"].encode()) for line in lines]
    assert [leaf.hex() for leaf in leaves] == [line["leaf"] for line in lines]
    for index, line in enumerate(lines):
        proof = log.inclusion_proof(line["event_id"])
        assert verify_inclusion(leaves[index], line["position"], 5, proof.path, log.root())
    assert "hr/leave" not in json.dumps(lines)
    disclosed = [json.loads(line) for line in log.export(disclose=True)]
    assert disclosed[3]["payload"]["hits"][0]["passage"]["document_id"] == "hr/leave"
    assert [line["body"] for line in disclosed] == [line["body"] for line in lines]


def test_openlineage_export_has_the_datasets_that_were_read_and_written(log):
    report = AddReport(added=1, passages=1)
    log.append(
        payloads.ingest(ALICE, documents=[("hr/leave", 4, "ab")], report=report, generation="g", index_epoch=1)
    )
    log.append(search("q", "hr/leave"))
    log.append(AuditEvent("configuration"))
    written, read, other = (json.loads(line) for line in log.export("openlineage", disclose=True))
    for event in (written, read, other):
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
        assert {"_producer", "_schemaURL"} <= event["run"]["facets"]["lir_audit"].keys()
    assert (written["inputs"], written["outputs"][0]["name"]) == ([], "hr/leave")
    assert written["outputs"][0]["facets"]["version"]["datasetVersion"] == "4"
    assert (read["inputs"][0]["name"], read["outputs"]) == ("hr/leave", [])
    assert other["inputs"] == other["outputs"] == []
    assert "hr/leave" not in "".join(log.export("openlineage"))
    with pytest.raises(InputError, match="format"):
        log.export("csv")  # type: ignore[arg-type]


def test_every_kind_of_payload_is_recorded_and_read_back(log):
    made = Decision(False, "search", "alice", "an attribute that the policy reads is missing", 2)
    events = [
        payloads.version(ALICE, operation="rollback", documents=[("d", 2), ("e", None)], index_epoch=5, to_epoch=3),
        payloads.redaction(ALICE, document_id="d", version=1, counts={"email": 2}),
        payloads.decision(None, made, detail={"policy": "cedar"}),
        payloads.tool_call(ALICE, tool="runtime_info", arguments={"a": 1}, output="v22", thread_id="t"),
        payloads.memory_write(ALICE, operation="remember", thread_id="t", role="user", text="hello"),
        payloads.configuration(ALICE, changed={"k": 10}, settings="f"),
    ]
    ids = log.append_many([(event, None) for event in events])
    shown = [log.show(event_id) for event_id in ids]
    assert [entry["kind"] for entry in shown] == [
        "version",
        "redaction",
        "decision",
        "tool_call",
        "memory_write",
        "configuration",
    ]
    assert shown[0]["payload"]["documents"][0] == {"version": 2, "document": {"document_id": "d"}}
    assert shown[2]["policy"]["reason"] == "an attribute that the policy reads is missing"
    assert shown[3]["payload"]["arguments"] == {"a": 1}
    assert "$commitment" in shown[3]["payload"]["output"]
    assert log.confirms(ids[3], "v22")
    assert log.confirms(ids[4], "hello")
    assert log.verify().ok


def test_a_query_can_be_committed_to_without_being_stored(log, tmp_path):
    event_id = log.append(search("onlycommitted", store_query=False))
    assert "$commitment" in log.get(event_id).payload["query"]
    assert log.confirms(event_id, "onlycommitted")
    assert b"onlycommitted" not in contents(tmp_path)


def test_equal_events_of_one_microsecond_have_different_ids(tmp_path):
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=lambda: 0) as log:
        assert len(set(log.append_many([AuditEvent("decision")] * 100))) == 100


def test_eight_threads_append_at_once(log):
    recorded: list[list[str]] = [[] for _ in range(8)]

    def work(thread: int) -> None:
        for number in range(40):
            recorded[thread].append(log.append(AuditEvent("decision", f"p{thread}", payload={"n": number})))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.size == 320
    assert log.verify().ok
    for number, ids in enumerate(recorded):
        mine = log.events(principal_id=f"p{number}", limit=1000)
        assert [event.event_id for event in mine] == ids
        assert [event.payload["n"] for event in mine] == list(range(40))


@pytest.mark.parametrize(("most", "expected"), [(1024, 1), (3, 3)])
def test_waiting_threads_share_a_transaction(log, monkeypatch, most, expected):
    """While one append is held up, the others queue; then one commit takes as many as it may."""
    monkeypatch.setattr("lir_agents.audit.writer.MAX_BATCH", most)
    commits: list[int] = []
    log._database.writer.set_trace_callback(lambda sql: commits.append(1) if sql == "COMMIT" else None)
    log._database.writing.acquire()
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(log.append(AuditEvent("decision")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(log._writer._waiting) < 8:
        time.sleep(0.001)
    log._database.writing.release()
    for thread in threads:
        thread.join()
    assert {event.event_id for event in log.events()} == set(ids)
    assert len(ids) == 8
    assert len(commits) == expected


def test_rows_cannot_be_changed_through_the_schema(log, tmp_path):
    log.append(AuditEvent("decision"))
    with sqlite3.connect(tmp_path / "audit.sqlite") as other:
        for statement in ("UPDATE leaf SET body='x'", "DELETE FROM event", "DELETE FROM node"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)


def test_a_log_is_for_its_owner_only_and_reopens_with_its_name(tmp_path):
    path = tmp_path / "audit.sqlite"
    with AuditLog.open(path) as log:
        origin, event_id = log.origin, log.append(AuditEvent("decision"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["audit.sqlite"]
    with AuditLog.open(path) as log:
        assert (log.origin, log.get(event_id).position) == (origin, 0)


def test_closed_logs_and_missing_folders_raise_store_errors(tmp_path):
    log = AuditLog.open(tmp_path / "audit.sqlite")
    log.close()
    log.close()
    for call in (lambda: log.append(AuditEvent("decision")), lambda: log.size, log.verify):
        with pytest.raises(StoreError):
            call()
    with pytest.raises(StoreError):
        AuditLog.open(tmp_path / "missing" / "audit.sqlite")
    with pytest.raises(StoreError, match="does not exist"):
        AuditLog.open(tmp_path / "other.sqlite", read_only=True)
    assert not (tmp_path / "other.sqlite").exists()


def test_a_read_only_log_reads_and_refuses(tmp_path):
    path = tmp_path / "audit.sqlite"
    with AuditLog.open(path) as log:
        event_id = log.append(AuditEvent("decision"))
    with AuditLog.open(path, read_only=True) as log:
        assert log.get(event_id).kind == "decision"
        with pytest.raises(StoreError) as refused:
            log.append(AuditEvent("decision"))
        assert (refused.value.store, refused.value.operation) == ("audit", "append")
        assert not refused.value.retryable
        assert log.verify().ok


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be looked at" * 40])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "audit.sqlite"
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        AuditLog.open(path)
    assert path.read_bytes() == content


def test_foreign_newer_and_orphaned_databases_are_refused(tmp_path):
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE mine (x)")
    before = foreign.read_bytes()
    with pytest.raises(IntegrityError, match="not an audit log"):
        AuditLog.open(foreign)
    assert foreign.read_bytes() == before

    newer = tmp_path / "newer.sqlite"
    AuditLog.open(newer).close()
    with sqlite3.connect(newer) as other:
        other.execute("PRAGMA user_version=99")
    with pytest.raises(IntegrityError, match="format 99"):
        AuditLog.open(newer)

    nameless = tmp_path / "nameless.sqlite"
    AuditLog.open(nameless).close()
    with sqlite3.connect(nameless) as other:
        other.execute("DELETE FROM meta")
    with pytest.raises(IntegrityError, match="name"):
        AuditLog.open(nameless)

    (tmp_path / "gone.sqlite-wal").write_bytes(os.urandom(100))
    with pytest.raises(IntegrityError, match="write-ahead"):
        AuditLog.open(tmp_path / "gone.sqlite")


def test_sizes_out_of_range_are_refused(log):
    ids = log.append_many([AuditEvent("decision", payload={"n": n}) for n in range(3)])
    for call in (
        lambda: log.root(4),
        lambda: log.root(-1),
        lambda: log.inclusion_proof(ids[2], 2),
        lambda: log.consistency_proof(3, 2),
        lambda: log.consistency_proof(-1),
    ):
        with pytest.raises(InputError):
            call()


def test_erasable_needs_a_storable_subject():
    with pytest.raises(InputError, match="subject"):
        Erasable("x", subject="\udc00")


# ---------------------------------------------------------------- when the disk holds it


@pytest.fixture
def synced(monkeypatch):
    """The names of the files that were synchronised, in order; `synced.refuse` makes the disk fail."""

    class Disk(list[str]):
        refuse = False

    disk = Disk()

    def sync_file(path: Path) -> None:
        if disk.refuse:
            raise OSError(5, "Input/output error")
        disk.append(path.name)

    monkeypatch.setattr(flush, "sync_file", sync_file)
    return disk


def eventually(holds, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(holds())


@pytest.mark.parametrize("kind", ["ingest", "version", "redaction", "erasure", "configuration"])
def test_what_changes_the_index_is_on_the_disk_when_its_append_returns(tmp_path, synced, kind):
    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        log.append(AuditEvent(kind))
        assert synced == ["audit.sqlite-wal"]


@pytest.mark.parametrize("kind", ["retrieval", "decision", "tool_call", "memory_write"])
def test_what_a_search_records_reaches_the_disk_soon_and_nobody_waits(tmp_path, synced, kind, monkeypatch):
    monkeypatch.setattr(flush, "DELAY_S", 0.4)
    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        log.append(AuditEvent(kind))
        assert synced == []
        assert eventually(lambda: synced == ["audit.sqlite-wal"])
        log.append(AuditEvent(kind))
        assert eventually(lambda: len(synced) == 2)


def test_closing_and_signing_wait_for_the_disk(tmp_path, synced, monkeypatch):
    monkeypatch.setattr(flush, "DELAY_S", 60.0)
    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        log.append(AuditEvent("retrieval"))
        log.checkpoint(Ed25519PrivateKey.generate())
        assert len(synced) == 1
        log.append(AuditEvent("retrieval"))
    assert len(synced) == 2, "closing does not leave the last ones to chance"


def test_closing_at_any_moment_of_a_flush_ends_it(tmp_path, synced, monkeypatch):
    monkeypatch.setattr(flush, "DELAY_S", 0.0003)
    for number in range(300):
        flusher = flush.Flusher(tmp_path / "file")
        flusher.soon()
        time.sleep(number % 7 * 0.0001)
        flusher.soon()
        before = len(synced)
        closing = threading.Thread(target=flusher.close, daemon=True)
        closing.start()
        closing.join(10.0)
        assert not closing.is_alive()
        assert len(synced) > before, "what was asked for before closing is on the disk"


def test_a_disk_that_fails_refuses_what_comes_after(tmp_path, synced):
    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        log.append(AuditEvent("retrieval"))
        synced.refuse = True
        with pytest.raises(StoreError, match="disk did not take"):
            log.append(AuditEvent("ingest"))
        synced.refuse = False  # the kernel has forgotten what it could not write: trying again proves nothing
        size = log.size
        for kind in ("retrieval", "ingest"):
            with pytest.raises(StoreError, match="disk did not take"):
                log.append(AuditEvent(kind))
        with pytest.raises(StoreError, match="disk did not take"):
            log.checkpoint(Ed25519PrivateKey.generate())
        assert log.size == size


def test_a_disk_that_fails_in_the_background_is_noticed(tmp_path, synced, monkeypatch):
    monkeypatch.setattr(flush, "DELAY_S", 0.01)

    def refused() -> bool:
        try:
            log.append(AuditEvent("retrieval"))
        except StoreError as error:
            return "disk did not take" in str(error)
        return False

    with AuditLog.open(tmp_path / "audit.sqlite") as log:
        synced.refuse = True
        assert eventually(refused)


def test_a_file_is_synchronised_and_one_that_is_not_there_has_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    flush.sync_file(tmp_path / "file")
    flush.sync_file(tmp_path / "none")
    with pytest.raises(OSError, match="directory"):
        flush.sync_file(tmp_path)
