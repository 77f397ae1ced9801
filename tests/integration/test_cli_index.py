"""The commands on a real index on disk: what they print, what they write, how they end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from langgraph.store.memory import InMemoryStore

from lir_agents import AccessDenied, Document, InputError, LateInteractionIndex, Principal
from lir_agents.cli import main
from lir_agents.encoding.transformer import choose_forward
from lir_agents.native.library import paths
from tests.hashed_encoder import HashedEncoder

TEXTS = {
    "leave.md": "---\nlang: en\n---\n# Leave\n\nEverybody has thirty days of leave a year.\n",
    "canteen.txt": "The canteen opens at noon and serves soup.",
    "sub/parking.txt": "Park your bicycle behind the house, never in front of it.",
}
Lir = Callable[..., tuple[int, str, str]]


class Forgetful(InMemoryStore):
    """A memory that can go down."""

    down = False

    def batch(self, ops: Any) -> Any:
        if self.down:
            raise OSError("down")
        return super().batch(ops)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "docs"
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def lir(capsys: pytest.CaptureFixture[str]) -> Lir:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def index(folder: Path) -> Path:
    directory = folder.parent / "notes.lir"
    with pytest.raises(SystemExit) as end:
        main(["ingest", str(folder), "--index", str(directory)])
    assert not end.value.code
    return directory


@pytest.fixture(scope="module")
def governed(folder: Path) -> Path:
    directory = folder.parent / "firm.lir"
    with pytest.raises(SystemExit) as end:
        main(["ingest", str(folder / "leave.md"), "--index", str(directory), "--acl", "user:alice,group:hr"])
    assert not end.value.code
    return directory


# ---------------------------------------------------------------- ingest


def test_ingest_reports_what_it_did_and_a_second_time_costs_nothing(lir: Lir, folder: Path, tmp_path: Path) -> None:
    code, shown, _ = lir("ingest", folder, "--index", tmp_path / "i", "--json")
    first = json.loads(shown)
    assert (code, first["added"], first["failed"], first["passages"]) == (0, 3, [], 3)
    code, shown, _ = lir("ingest", folder, "--index", tmp_path / "i", "--json")
    again = json.loads(shown)
    assert (again["added"], again["unchanged"], again["passages"]) == (0, 3, 0)


def test_a_bad_file_is_named_and_stops_nothing(lir: Lir, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/good.txt").write_text("A good text.")
    (tmp_path / "docs/bad.txt").write_bytes(b"caf\xe9 and more")
    (tmp_path / "docs/picture.png").write_bytes(b"\x89PNG")
    code, shown, err = lir("ingest", tmp_path / "docs", "--index", tmp_path / "i")
    assert code == 1
    assert "1 added" in shown
    assert "bad.txt" in shown
    assert "picture.png" in shown
    assert "Traceback" not in err
    code, shown, _ = lir("ingest", tmp_path / "docs", "--index", tmp_path / "i", "--json")
    report = json.loads(shown)
    assert code == 1
    assert [failure["id"] for failure in report["failed"]] == ["bad.txt"]
    assert [skip["id"] for skip in report["skipped"]] == ["picture.png"]


def test_half_a_surrogate_pair_is_told_and_mended_never_a_traceback(lir: Lir, tmp_path: Path) -> None:
    lines = [{"id": "\ud800", "text": "a bad id"}, {"id": "b", "text": "\ud800", "metadata": {"\udfff": "\ud800"}}]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for options in ((), ("--json",)):
        code, shown, err = lir("ingest", tmp_path / "docs.jsonl", "--index", tmp_path / "i", *options)
        assert (code, "Traceback" in err) == (1, False)
    report = json.loads(shown)
    assert (report["unchanged"], [failure["id"] for failure in report["failed"]]) == (1, ["\ud800"])
    assert "half surrogate" in report["failed"][0]["reason"]


def test_nothing_to_read_makes_no_index(lir: Lir, tmp_path: Path) -> None:
    code, shown, err = lir("ingest", tmp_path / "absent", "--index", tmp_path / "i")
    assert (code, shown) == (2, "")
    assert "absent does not exist" in err
    assert not (tmp_path / "i").exists()


def test_progress_is_plain_lines_on_standard_error(lir: Lir, folder: Path, tmp_path: Path) -> None:
    _, shown, err = lir("ingest", folder, "--index", tmp_path / "i", "--json")
    json.loads(shown)
    assert "indexing: 3 documents" in err
    assert "\x1b" not in err


# ---------------------------------------------------------------- search


def test_search_json_is_one_document_with_the_whole_result(lir: Lir, index: Path) -> None:
    code, shown, err = lir(
        "search", "how many days off do I get?", "--index", index, "-k", 2, "--explain", "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(shown)
    best = found["hits"][0]
    assert len(found["hits"]) == 2
    assert (best["rank"], best["document_id"], best["version"]) == (1, "leave.md", 1)
    assert sum(best["breakdown"].values()) == pytest.approx(best["score"])
    assert found["coverage"]["full"] is True
    assert found["event_id"]
    days = next(match for match in best["explanation"] if match["query_token"] == "days")
    assert best["text"][days["start"] : days["end"]] == "days"


def test_search_shows_panels_bars_and_words(lir: Lir, index: Path) -> None:
    code, shown, _ = lir("search", "how many days off do I get?", "--index", index, "--explain")
    assert code == 0
    for piece in ("Leave", "maxsim", "dense", "lexical", "█", "query token", "days", "event "):
        assert piece in shown
    assert shown.index("thirty days") < shown.index("soup")


def test_a_filter_scopes_the_search(lir: Lir, index: Path) -> None:
    code, shown, _ = lir("search", "soup at noon", "--index", index, "--filter", '{"lang": "en"}', "--json")
    assert (code, [hit["document_id"] for hit in json.loads(shown)["hits"]]) == (0, ["leave.md"])


def test_reading_the_model_is_no_part_of_a_searchs_budget(
    lir: Lir, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any, **more: Any) -> Any:
        time.sleep(1.0)
        return choose_forward(*given, **more)

    monkeypatch.setattr("lir_agents.encoding.transformer.choose_forward", slowly)
    code, shown, _ = lir("search", "soup at noon", "--index", index, "--budget-ms", 2000, "--json")
    assert (code, json.loads(shown)["coverage"]["full"]) == (0, True)


@pytest.mark.parametrize("query", ["", "   "])
def test_an_empty_query_is_wrong_usage(lir: Lir, index: Path, query: str) -> None:
    code, shown, err = lir("search", query, "--index", index, "--json")
    assert (code, shown) == (2, "")
    assert "query" in err


def test_a_conversation_without_a_name_is_wrong_usage(lir: Lir, index: Path) -> None:
    code, shown, err = lir("search", "soup", "--index", index, "--thread", "")
    assert (code, shown) == (2, "")
    assert "leave it out" in err
    assert "None" not in err


def test_who_asks_decides_what_surfaces(lir: Lir, governed: Path) -> None:
    asked = ("search", "days of leave", "--index", governed, "--json", "--as")
    assert len(json.loads(lir(*asked, "bob,group:hr")[1])["hits"]) == 1
    assert len(json.loads(lir(*asked, "user:alice")[1])["hits"]) == 1
    assert json.loads(lir(*asked, "bob,group:sales")[1])["hits"] == []


def test_a_refusal_by_policy_ends_with_3(lir: Lir, governed: Path) -> None:
    code, shown, err = lir("search", "days of leave", "--index", governed, "--json")
    assert (code, shown) == (3, "")
    assert err.startswith("lir: ")


def test_no_index_is_an_error_and_none_is_made(lir: Lir, tmp_path: Path) -> None:
    code, shown, err = lir("search", "anything", "--index", tmp_path / "i")
    assert (code, shown) == (2, "")
    assert "holds no index" in err
    assert not (tmp_path / "i").exists()


# ---------------------------------------------------------------- stats, doctor, audit


def test_stats_count(lir: Lir, index: Path) -> None:
    code, shown, _ = lir("stats", "--index", index, "--json")
    found = json.loads(shown)
    assert (code, found["documents"], found["live_passages"], found["access"]) == (0, 3, 3, "open")
    assert "live passages" in lir("stats", "--index", index)[1]


def test_stats_tell_how_long_searches_took_beside_the_process_that_makes_them(lir: Lir, tmp_path: Path) -> None:
    path = tmp_path / "i.lir"
    store = Forgetful()
    with LateInteractionIndex.open(path, access="acl", encoder=HashedEncoder(), store=store) as opened:
        assert json.loads(lir("stats", "--index", path, "--json")[1])["latency"]["searches"] == 0
        opened.add([Document(id="a", text="Everybody has thirty days of leave.", acl=["group:staff"])])
        staff = Principal("sam", groups=["group:staff"])
        results = [opened.search("leave", principal=staff, thread_id="t") for _ in range(5)]
        with pytest.raises(AccessDenied):
            opened.search("leave")
        store.down = True
        assert not opened.search("leave", principal=staff, thread_id="t").coverage.full
        ours = opened.stats()
        code = f"from lir_agents.cli import main; main(['stats', '--index', {str(path)!r}, '--json'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
        found = json.loads(done.stdout)
        same = ("documents", "access", "epoch", "audit_events", "token_bytes", "fingerprint", "live_passages")
        assert {name: found[name] for name in same} == {name: ours[name] for name in same}
        told = found["latency"]
        assert (told["searches"], told["refused"], told["fallbacks"]) == (6, 1, {"memory": {"failed": 1}})
        assert told["stages_ms"].keys() == {"authorize", "memory", "first_stage", "rerank"}
        assert told["stages_ms"]["rerank"]["count"] == 6
        slowest = max(result.timings_ms["rerank"] for result in results)
        assert 0 < told["stages_ms"]["rerank"]["p50"] <= slowest + 1e-3
        whole = told["whole_ms"]
        assert 0 < whole["p50"] <= whole["p95"] <= whole["p99"]
        assert whole["p50"] >= told["stages_ms"]["first_stage"]["p50"]
        code, shown, _ = lir("stats", "--index", path, "--last", 1)
        assert code == 0
        for piece in ("the last search", "rerank", "p99 ms", "memory failed 1 time."):
            assert piece in shown
    assert json.loads(lir("stats", "--index", path, "--json")[1])["latency"]["searches"] == 6


def test_stats_say_which_backend_encodes(lir: Lir, index: Path) -> None:
    found = json.loads(lir("stats", "--index", index, "--json")[1])
    assert found["backend"].partition(":")[0] in ("torch", "openvino")


def test_doctor_finds_nothing_wrong(lir: Lir, index: Path) -> None:
    code, shown, _ = lir("doctor", "--index", index, "--json")
    found = json.loads(shown)
    assert code == 0
    assert found["ok"]
    names = ["python", "libraries", "scoring", "bundled encoder", "index"]
    assert [check["check"] for check in found["checks"]] == names
    scoring = found["checks"][2]["detail"]
    assert (paths()[-1] if paths() else "no library") in scoring


def test_doctor_finds_what_is_damaged_and_mends_it_when_told_to(lir: Lir, index: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "i"))
    shutil.rmtree(copy / "lexical.lmdb")
    code, shown, _ = lir("doctor", "--index", copy)
    assert code == 1
    assert "✘ lexical" in shown
    assert "--repair" in shown
    code, shown, _ = lir("doctor", "--index", copy, "--repair", "--json")
    found = json.loads(shown)
    assert (code, found["ok"], found["index"]["left"]) == (0, True, [])
    assert [(one["store"], one["mend"]) for one in found["index"]["findings"]] == [("lexical", "rebuild")]
    code, shown, _ = lir("audit", "show", found["index"]["event_id"], "--index", copy, "--json")
    assert (code, json.loads(shown)["kind"]) == (0, "configuration")
    assert lir("doctor", "--index", copy)[0] == 0
    assert json.loads(lir("search", "soup at noon", "--index", copy, "--json")[1])["hits"][0]["document_id"] == (
        "canteen.txt"
    )


def test_doctor_gives_one_next_step_for_a_store_that_cannot_be_read(lir: Lir, index: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "i"))
    (words,) = (copy / "lexical.lmdb").glob("*.mdb")
    words.write_bytes(b"no database" * 1000)
    code, shown, _ = lir("doctor", "--index", copy)
    (line,) = [line for line in shown.splitlines() if "✘ lexical" in line]
    assert code == 1
    assert line.endswith("`lir doctor --repair` makes it again from the catalog.")
    assert "permissions" not in line
    assert ".." not in line


def test_doctor_says_what_it_cannot_mend(lir: Lir, index: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "i"))
    (copy / "audit.sqlite").write_bytes(b"not a database" * 100)
    code, shown, _ = lir("doctor", "--index", copy, "--repair")
    assert code == 1
    assert "✘ audit" in shown
    assert "backup" in shown
    assert (copy / "audit.sqlite").read_bytes() == b"not a database" * 100


def test_repair_needs_an_index(lir: Lir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIR_INDEX", raising=False)
    assert lir("doctor", "--repair")[0] == 2


def test_doctor_names_a_damaged_index(lir: Lir, tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    (tmp_path / "i/catalog.sqlite").write_bytes(b"not a database" * 100)
    code, shown, _ = lir("doctor", "--index", tmp_path / "i")
    assert code == 1
    assert "✘ index" in shown


def test_the_log_shows_what_was_asked_and_verifies(lir: Lir, index: Path, tmp_path: Path) -> None:
    asked = json.loads(lir("search", "soup", "--index", index, "--json")[1])
    code, shown, _ = lir("audit", "log", "--index", index, "-n", 1, "--json")
    events = json.loads(shown)
    assert (code, [event["event_id"] for event in events]) == (0, [asked["event_id"]])
    assert asked["event_id"] in lir("audit", "log", "--index", index)[1]

    code, shown, _ = lir("audit", "show", asked["event_id"], "--index", index, "--json")
    described = json.loads(shown)
    assert code == 0
    assert described["surfaced"][0]["document_id"] == asked["hits"][0]["document_id"]

    code, shown, _ = lir("audit", "verify", "--index", index, "--json")
    assert (code, json.loads(shown)["ok"]) == (0, True)
    assert len(lir("audit", "export", "--index", index)[1].splitlines()) == json.loads(shown)["events"]


def test_a_checkpoint_kept_elsewhere_tells_of_another_log(
    lir: Lir, index: Path, governed: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(lir("audit", "checkpoint", "--index", index)[1])
    assert lir("audit", "verify", "--index", index, "--against", kept)[0] == 0
    lir("search", "soup", "--index", index, "--json")
    assert lir("audit", "verify", "--index", index, "--against", kept)[0] == 0
    code, shown, _ = lir("audit", "verify", "--index", governed, "--against", kept, "--key", index / "audit.key")
    assert code == 1
    assert "✘" in shown


def test_an_unknown_event_is_wrong_usage(lir: Lir, index: Path) -> None:
    assert lir("audit", "show", "beef", "--index", index)[0] == 2


# ---------------------------------------------------------------- eval

NUMBER = {"type": "number"}
SYSTEM = {
    "type": "object",
    "required": ["nDCG@10", "Recall@5", "Recall@10", "Recall@100", "MRR@10", "leaks", "latency_ms", "stages_ms"],
    "properties": {
        "leaks": {"type": "integer"},
        "latency_ms": {"required": ["p50", "p95", "p99"], "additionalProperties": NUMBER},
        "stages_ms": {"additionalProperties": {"required": ["p50", "p95"], "additionalProperties": NUMBER}},
        "per_query": {
            "additionalProperties": {
                "required": ["nDCG@10", "top"],
                "properties": {
                    "nDCG@10": {"type": ["number", "null"]},
                    "top": {"type": "array", "items": {"type": "string"}},
                },
            }
        },
    },
}
SCHEMA = {
    "type": "object",
    "required": ["dataset", "split", "queries", "passages", "machine", "systems"],
    "properties": {"machine": {"type": "object"}, "systems": {"additionalProperties": SYSTEM}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six documents of two departments; each asks for its own, and once for the other's."""
    root = tmp_path_factory.mktemp("collection") / "firm"
    (root / "qrels").mkdir(parents=True)
    texts = {
        "h1": ("hr", "Everybody has thirty days of leave a year."),
        "h2": ("hr", "Salaries are paid on the last day of the month."),
        "h3": ("hr", "Sick notes go to the personnel office."),
        "l1": ("law", "Contracts above ten thousand euros need two signatures."),
        "l2": ("law", "Keep every contract for ten years."),
        "l3": ("law", "The court of Hamburg decides about disputes."),
    }
    corpus = [
        {"_id": name, "title": "", "text": text, "metadata": {"acl": [f"dept:{group}"]}}
        for name, (group, text) in texts.items()
    ]
    hr, law = ["user:a", "dept:hr"], ["user:b", "dept:law"]
    queries: list[dict[str, Any]] = [
        {"_id": "q1", "text": "how many days off?", "metadata": {"principals": hr}},
        {"_id": "q2", "text": "how long are contracts kept?", "metadata": {"principals": law}},
        {
            "_id": "no",
            "text": "when are salaries paid?",
            "metadata": {"principals": law, "expect": "deny", "forbidden_target": ["h2"]},
        },
    ]
    (root / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (root / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (root / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\th1\t1\nq2\tl2\t1\n")
    return root


@pytest.fixture(scope="module")
def collection(dataset: Path) -> Path:
    """The index that the evaluations share."""
    directory = dataset.parent / "firm.lir"
    with pytest.raises(SystemExit) as end:
        main(["ingest", str(dataset), "--index", str(directory), "--access", "acl"])
    assert not end.value.code
    return directory


def test_eval_prints_a_table_and_writes_the_documented_json(
    lir: Lir, dataset: Path, collection: Path, tmp_path: Path
) -> None:
    code, shown, err = lir("eval", dataset, "--index", collection, "--json", tmp_path / "out" / "result.json")
    assert code == 0, err
    for piece in ("firm", "nDCG@10", "bm25", "dense", "hybrid", "maxsim", "lir", "leaks", "p95 ms", "p="):
        assert piece in shown
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    jsonschema.validate(written, SCHEMA)
    assert (written["dataset"], written["split"], written["queries"], written["passages"]) == ("firm", "dev", 3, 6)
    assert list(written["systems"]) == ["bm25", "dense", "hybrid", "maxsim", "lir"]
    lir_system = written["systems"]["lir"]
    assert lir_system["nDCG@10"] == pytest.approx(1.0)
    assert [system["leaks"] for system in written["systems"].values()] == [0] * 5
    assert "h2" not in lir_system["per_query"]["no"]["top"]
    assert {"first_stage", "rerank"} <= lir_system["stages_ms"].keys()


def test_eval_switches_access_off_and_counts_what_leaks(lir: Lir, dataset: Path, collection: Path) -> None:
    code, shown, _ = lir(
        *("eval", dataset, "--systems", "dense,lir", "--index", collection, "--access", "off", "--json", "-")
    )
    found = json.loads(shown)
    assert code == 0
    assert found["switches"] == {"memory": "on", "tools": "on", "access": "off"}
    assert found["systems"]["lir"]["leaks"] == 3
    assert "h2" in found["systems"]["dense"]["per_query"]["no"]["top"]


def test_eval_indexes_into_a_temporary_directory_by_itself(
    lir: Lir, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, shown, err = lir("eval", dataset, "--systems", "bm25", "--limit", 1, "--json", "-")
    assert code == 0
    assert "indexing: 6 documents" in err
    assert list(json.loads(shown)["systems"]["bm25"]["per_query"]) == ["q1"]
    assert list(tmp_path.iterdir()) == []


def write_collection(root: Path, texts: dict[str, str]) -> Path:
    """A collection with one query, about soup, that d1 answers."""
    (root / "qrels").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"_id": name, "text": text}) for name, text in texts.items()]
    (root / "corpus.jsonl").write_text("\n".join(lines))
    (root / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "soup at noon"}))
    (root / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    return root


def test_eval_measures_the_corpus_as_it_is_now(lir: Lir, tmp_path: Path) -> None:
    def score() -> float:
        code, shown, err = lir(
            *("eval", tmp_path / "set", "--systems", "bm25", "--index", tmp_path / "i", "--json", "-")
        )
        assert code == 0, err
        return float(json.loads(shown)["systems"]["bm25"]["MRR@10"])

    write_collection(tmp_path / "set", {"d1": "The canteen serves soup at noon.", "d2": "Park behind the house."})
    assert score() == 1.0
    write_collection(tmp_path / "set", {"d1": "Park behind the house.", "d2": "The canteen serves soup at noon."})
    assert score() < 1.0
    write_collection(tmp_path / "set", {"d1": "The canteen serves soup at noon.", "d2": "Park.", "d3": "Sing."})
    assert score() == 1.0
    before = json.loads(lir("stats", "--index", tmp_path / "i", "--json")[1])
    assert score() == 1.0
    after = json.loads(lir("stats", "--index", tmp_path / "i", "--json")[1])
    assert before["documents"] == 3
    assert (after["epoch"], after["versions"]) == (before["epoch"], before["versions"]), "nothing was added again"


@pytest.mark.parametrize("emptied", [False, True])
def test_eval_refuses_an_index_that_holds_something_else(lir: Lir, tmp_path: Path, emptied: bool) -> None:
    one = write_collection(tmp_path / "one", {"d1": "Soup at noon.", "d2": "Park behind the house."})
    other = write_collection(
        tmp_path / "other", {"d1": "Soup.", "d2": " "} if emptied else {"d1": "Soup.", "d3": "x"}
    )
    assert lir("eval", one, "--systems", "bm25", "--index", tmp_path / "i")[0] == 0
    code, shown, err = lir("eval", other, "--systems", "bm25", "--index", tmp_path / "i")
    assert (code, shown) == (2, "")
    assert "holds 1 document which" in err
    assert "d2" in err
    assert "temporary" in err
    held = json.loads(lir("search", "soup", "--index", tmp_path / "i", "--json")[1])["hits"]
    assert {hit["document_id"]: hit["version"] for hit in held} == {"d1": 1, "d2": 1}, "nothing was mixed into it"


def test_eval_refuses_an_index_whose_document_could_not_be_brought_up_to_date(lir: Lir, tmp_path: Path) -> None:
    made = write_collection(tmp_path / "set", {"d1": "Soup at noon.", "d2": "Park behind the house."})
    assert lir("eval", made, "--systems", "bm25", "--index", tmp_path / "i")[0] == 0
    bad = {"_id": "d1", "text": "Soup in the evening.", "title": "t" * 100_000}
    (made / "corpus.jsonl").write_text(json.dumps(bad) + '\n{"_id": "d2", "text": "Park behind the house."}\n')
    code, shown, err = lir("eval", made, "--systems", "bm25", "--index", tmp_path / "i")
    assert (code, shown) == (2, "")
    assert "could not be added, e.g. d1" in err


def test_eval_says_before_it_begins_that_it_cannot_write(
    lir: Lir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lir_agents.cli.evaluate._measure", lambda *_: pytest.fail("it measured"))
    made = write_collection(tmp_path / "set", {"d1": "Soup at noon."})
    (tmp_path / "file").write_text("")
    for name in ("set", "file/result.json"):
        code, shown, err = lir("eval", made, "--json", tmp_path / name)
        assert (code, shown) == (2, "")
        assert "cannot be written" in err


def test_eval_that_fails_leaves_an_earlier_result_as_it_was(
    lir: Lir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("is not there", field="model")

    monkeypatch.setattr("lir_agents.cli.evaluate._measure", fail)
    made = write_collection(tmp_path / "set", {"d1": "Soup at noon."})
    (tmp_path / "earlier.json").write_text("{}")
    for name in ("earlier.json", "new.json"):
        assert lir("eval", made, "--json", tmp_path / name)[0] == 2
    assert (tmp_path / "earlier.json").read_text() == "{}"
    assert not (tmp_path / "new.json").exists()


def test_a_narrow_screen_gets_fewer_metrics_and_whole_ones() -> None:
    import io

    from rich.console import Console

    from lir_agents.cli.scoreboard import scoreboard
    from lir_agents.evaluation.experiment import Experiment, QueryOutcome, SystemResult
    from lir_agents.evaluation.metrics import score_query

    def result(ranking: list[str]) -> SystemResult:
        return SystemResult({"q": QueryOutcome(score_query(ranking, {"d": 1}), ("d",), (), 1.0, {})})

    systems = {"bm25": result(["x", "d"]), "lir": result(["d"])}
    experiment = Experiment("tiny", "dev", 1, 1, {}, systems)
    written = io.StringIO()
    Console(file=written, width=80).print(scoreboard(experiment, ("bm25",), width=80))
    assert "nDCG@10" in written.getvalue()
    assert "Recall@100" not in written.getvalue()
    assert "+0.3691 p=1.000" in written.getvalue()
    assert "…" not in written.getvalue()


def test_a_checkpoint_is_signed_and_verified_with_a_key_kept_elsewhere(
    lir: Lir, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public, kept = tmp_path / "signing.pem", tmp_path / "public.pem", tmp_path / "kept.json"
    before = (index / "audit.key").exists()
    kept.write_text(lir("audit", "checkpoint", "--index", index, "--key", key)[1])
    public.write_text(lir("audit", "key", "--key", key)[1])
    assert (index / "audit.key").exists() == before, "no key beside the log"
    assert key.stat().st_mode & 0o077 == 0
    assert "PUBLIC KEY" in public.read_text()
    for half in (key, public):
        assert lir("audit", "verify", "--index", index, "--against", kept, "--key", half)[0] == 0
    monkeypatch.setenv("LIR_AUDIT_KEY", str(public))
    assert lir("audit", "verify", "--index", index, "--against", kept)[0] == 0
    lir("audit", "key", "--key", tmp_path / "other.pem")
    code, shown, _ = lir("audit", "verify", "--index", index, "--against", kept, "--key", tmp_path / "other.pem")
    assert (code, "not signed by this key" in shown) == (1, True)
    assert lir("audit", "verify", "--index", index, "--against", kept, "--key", tmp_path / "none.pem")[0] != 0
    assert not (tmp_path / "none.pem").exists(), "verifying makes no key"


def test_ingest_redacts_where_it_is_asked_to(lir: Lir, tmp_path: Path) -> None:
    (tmp_path / "letter.md").write_text("Write to jane.roe@example.com about the soup.")
    made = tmp_path / "redacted.lir"
    assert lir("ingest", tmp_path / "letter.md", "--index", made, "--redact")[0] == 0
    (hit,) = json.loads(lir("search", "soup", "--index", made, "--json")[1])["hits"]
    assert hit["text"] == "Write to [EMAIL_1] about the soup."
    plain = tmp_path / "plain.lir"
    assert lir("ingest", tmp_path / "letter.md", "--index", plain)[0] == 0
    code, _, err = lir("ingest", tmp_path / "letter.md", "--index", plain, "--redact")
    assert (code, "redactor" in err) == (2, True)
