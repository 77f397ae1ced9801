"""The benchmarks run end to end on a collection of a few lines, and their tables say what their files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bars, corpus, markdown, plots, tables, timing
from benchmarks.__main__ import main
from benchmarks.ablation import SWITCHES
from benchmarks.bench import Bench
from benchmarks.storage import SETTINGS
from lir_agents import Principal
from lir_agents.evaluation import Dataset
from lir_agents.policy import AclPolicy
from tests.conftest import office_documents

_HISTORY = [
    {"speaker": "user", "text": "Where do visitors sign in?"},
    {"speaker": "agent", "text": "At reception."},
]
_TOOL = [{"tool": "office", "output": {"place": "oslo"}, "confidence": 1.0}]
QUERIES: dict[str, Sequence[tuple[str, str, dict[str, Any]]]] = {
    "mtrag_clapnq": [
        ("q1", "zurich/leave", {"rewrite": "How many days of leave are there in Zurich?"}),
        ("q2", "oslo/vpn", {"history": _HISTORY, "rewrite": "How does one start the VPN?", "tool_outputs": _TOOL}),
    ],
    "mtrag_fiqa": [("q1", "athens/pension", {"history": _HISTORY[:1], "rewrite": "What does the pension cost?"})],
    "med": [("q1", "zurich/leave", {}), ("q2", "oslo/vpn", {})],
    "nodejs_versions": [
        ("q1", "oslo/leave", {"tool_outputs": _TOOL}),
        ("q2", "athens/vpn", {"tool_outputs": [{"tool": "office", "output": {"place": "athens"}}]}),
    ],
}
_BINDINGS = [{"tool": "office", "field": "place", "metadata_key": "place", "mode": "boost"}]
_MACHINE = {"cpu": "One", "instructions": "avx2", "cores": 2, "python": "3.11", "torch": "2"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collections")
    for name, queries in QUERIES.items():
        (folder / name / "qrels").mkdir(parents=True)
        corpus = [
            {"_id": one.id, "title": one.title, "text": one.text, "metadata": dict(one.metadata)}
            for one in office_documents()[::3]
        ] + [
            {
                "_id": target,
                "title": target,
                "text": f"All about {target}.",
                "metadata": {"place": target.split("/")[0]},
            }
            for _, target, _ in queries
        ]
        unique = {line["_id"]: line for line in corpus}
        asked = [
            {"_id": key, "text": f"tell me about {target.split('/')[1]}", "metadata": meta}
            for key, target, meta in queries
        ]
        judged = ["query-id\tcorpus-id\tscore", *(f"{key}\t{target}\t1" for key, target, _ in queries)]
        bindings = [] if name == "med" else _BINDINGS
        (folder / name / "dataset.json").write_text(json.dumps({"name": name, "bindings": bindings}))
        (folder / name / "corpus.jsonl").write_text("\n".join(map(json.dumps, unique.values())))
        (folder / name / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
        (folder / name / "qrels" / "dev.tsv").write_text("\n".join(judged))
    return folder


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("bench")
    measure(data, work, "quality", "memory", "ablation", of="mtrag_clapnq")
    return work / "results"


def measure(data: Path, work: Path, *names: str, of: str, more: Sequence[str] = ()) -> None:
    where = ["--data", str(data), "--indexes", str(work / "indexes"), "--results", str(work / "results")]
    asked = [part for name in names for part in ("--only", name)]
    assert main([*where, *asked, "--set", of, *more]) == 0


def result(results: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return read


def test_quality_compares_every_system(results: Path) -> None:
    found = result(results, "quality/mtrag_clapnq")
    assert set(found["systems"]) == {"bm25", "dense", "hybrid", "maxsim", "lir"}
    assert found["queries"] == 2
    assert found["machine"]["cores"] >= 1
    assert 0 < found["systems"]["lir"]["nDCG@10"] <= 1
    assert set(found["systems"]["lir"]["per_query"]) == {"q1", "q2"}


def test_first_turns_are_untouched_by_memory(results: Path) -> None:
    found = result(results, "memory/mtrag_clapnq")
    assert found["first_turns"] == {"queries": 1, "differing": 0}
    assert found["spliced"]["first turns"]["queries"] == 8
    assert found["spliced"]["stand-alone turns"]["queries"] == 2


def test_ablation_takes_out_what_a_collection_has(results: Path) -> None:
    assert result(results, "ablation/mtrag_clapnq")["without"].keys() == SWITCHES.keys()


def test_tables_say_what_the_files_say(results: Path) -> None:
    page = tables.report(results)
    lir = result(results, "quality/mtrag_clapnq")["systems"]["lir"]["nDCG@10"]
    assert f"{lir:.4f}" in page
    assert "| without best block |" in tables.ablation_page(tables.load(results))
    readme = tables.filled("<!-- table: quality -->\nold\n<!-- end -->", tables.load(results))
    assert "| mtrag_clapnq |" in readme
    assert "old" not in readme
    assert tables.filled(readme, tables.load(results)) == readme, "writing again changes nothing"


def test_a_result_stands_only_for_the_same_source(
    results: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(data, results.parent, "quality", of="mtrag_clapnq", more=["--resume"])
    assert "quality/mtrag_clapnq: stands" in capsys.readouterr().out
    path = results / "quality" / "mtrag_clapnq.json"
    path.write_text(path.read_text().replace('"source_sha256": "', '"source_sha256": "0'))
    measure(data, results.parent, "quality", of="mtrag_clapnq", more=["--resume"])
    assert "quality/mtrag_clapnq: written" in capsys.readouterr().out


# ---------------------------------------------------------------- access


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with a question that must be denied, and one of two tenants."""
    folder = tmp_path_factory.mktemp("governed")
    pay = {"metadata": {"acl": ["hr"]}, "text": "The board is paid nine million coins.", "title": "Pay"}
    soup = {"metadata": {"acl": ["all"]}, "text": "The canteen serves soup at noon.", "title": "Soup"}
    denied = {"expect": "deny", "forbidden_target": ["pay"], "principals": ["user:bo", "all"]}
    _collection(
        folder / "inazuma_acl",
        [{"_id": "pay", **pay}, {"_id": "soup", **soup}],
        [
            ("q1", "when is soup served?", {"principals": ["user:bo", "all"]}),
            ("q2", "what is the board paid?", denied),
        ],
        [("q1", "soup")],
    )
    _collection(
        folder / "rag_multi_corpus",
        [
            {
                "_id": f"{t}/1",
                "title": t,
                "text": f"{t} sells tyres.",
                "metadata": {"tenant": t, "acl": [f"tenant:{t}"]},
            }
            for t in ("red", "blue")
        ],
        [(f"{t}/q", f"what does {t} sell?", {"tenant": t, "principals": [f"tenant:{t}"]}) for t in ("red", "blue")],
        [("red/q", "red/1"), ("blue/q", "blue/1")],
    )
    return folder


def _collection(
    folder: Path,
    corpus: list[dict[str, Any]],
    queries: list[tuple[str, str, dict[str, Any]]],
    judged: list[tuple[str, str]],
) -> None:
    (folder / "qrels").mkdir(parents=True)
    asked = [{"_id": key, "text": text, "metadata": meta} for key, text, meta in queries]
    lines = ["query-id\tcorpus-id\tscore", *(f"{key}\t{target}\t1" for key, target in judged)]
    (folder / "dataset.json").write_text(json.dumps({"name": folder.name}))
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "qrels" / "dev.tsv").write_text("\n".join(lines))


def test_nothing_of_what_must_not_be_read_shows(governed: Path, tmp_path: Path) -> None:
    measure(governed, tmp_path, "access", of="inazuma_acl")
    found = result(tmp_path / "results", "access/inazuma_acl")
    assert (found["denied"], found["forbidden"], found["traces"]) == (1, 1, {})
    assert set(found["leaks"].values()) == {0}
    assert found["systems"]["lir"]["nDCG@10"] == 1.0
    assert "| inazuma_acl |" in tables.report(tmp_path / "results")


def test_a_leak_would_be_seen(governed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurement, over an index whose policy lets everybody read everything."""
    monkeypatch.setattr(AclPolicy, "access_key", lambda self, document: '["all"]')
    measure(governed, tmp_path, "access", of="inazuma_acl")
    found = result(tmp_path / "results", "access/inazuma_acl")
    assert found["leaks"]["lir"] == 2, "both questions find what is open to everybody"
    traces = found["traces"]["q2"]
    for trace in ("get: pay", "versions: pay", "changes: pay", "hits: pay", "candidates: pay"):
        assert trace in traces
    assert "counts differ without them" in traces


def test_no_tenant_hears_of_another(governed: Path, tmp_path: Path) -> None:
    measure(governed, tmp_path, "access", of="rag_multi_corpus")
    found = result(tmp_path / "results", "access/rag_multi_corpus")
    assert (found["tenants"], found["queries"]) == (2, 2)
    assert len(found["leaks"]) == 6
    assert set(found["leaks"].values()) == {0}


@pytest.mark.long
def test_what_governing_costs_is_measured(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path, "governing", of="mtrag_fiqa", more=["--limit", "1"])
    access = result(tmp_path / "results", "governing/access")
    assert access["ratio_of_p50"].keys() == {"off", "on, may read all", "on, may read half", "on, 1,500 groups"}
    assert access["ratio_of_p50"]["off"] == 1.0
    audit = result(tmp_path / "results", "governing/audit")
    assert audit["append_ms"].keys() == audit["added_ms"].keys() == {"default", "disk"}
    assert "## What governing costs" in tables.report(tmp_path / "results")


@pytest.mark.long
def test_a_tools_answer_lifts_what_it_names(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path, "memory", of="nodejs_versions")
    systems = result(tmp_path / "results", "memory/nodejs_versions")["systems"]
    assert systems["on"]["nDCG@10"] >= systems["off"]["nDCG@10"]
    assert systems["wrong"]["nDCG@10"] == pytest.approx(systems["off"]["nDCG@10"]), "confidence .2 moves nothing"


@pytest.mark.long
def test_stored_vectors_keep_the_ranking(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path, "storage", of="med")
    found = result(tmp_path / "results", "storage/med")
    for setting in SETTINGS:
        assert found["quality_ratio"][setting] > 0.9
        assert found["bytes_per_token"][setting] < found["bytes_per_token"]["float32"]
    assert found["bytes_per_token"]["float32"] >= 4 * 384


@pytest.mark.long
def test_adding_and_speed_are_measured(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("langchain_chroma", reason="pip install 'lir-agents[bench]'")
    short(data, tmp_path, "ingest", "speed", "lexical", "concurrency", limit=5)
    found = tables.load(tmp_path / "results")
    again = found["ingest/mtrag_clapnq"]
    assert (again["added"], again["unchanged"]) == (5, 5)
    assert found["ingest/passages"]["passages_in_the_index"] == found["ingest/passages"]["passages"]
    assert found["speed/search"]["against langchain-chroma"].keys() == {"index.search", "LateInteractionRetriever"}
    assert found["concurrency/threads"]["per_second"].keys() == {"1", "8"}
    assert found["concurrency/batches"]["throughput"].keys() == {"2", "4", "8", "16"}
    assert found["concurrency/processes"]["throughput"].keys() == {"two", "two, single threads"}
    page = tables.report(tmp_path / "results")
    for title in (
        "Promises",
        "Speed",
        "Many questions at a time",
        "The lexical stage",
        "Adding beside langchain-chroma",
    ):
        assert f"## {title}" in page


@pytest.mark.long
def test_growth_and_access_are_measured(data: Path, tmp_path: Path) -> None:
    short(data, tmp_path, "scale", "selective", limit=1)
    found = tables.load(tmp_path / "results")
    held = list(found["scale/curve"]["passages"].values())
    assert held == sorted(held)
    assert found["scale/million"]["passages"] == 1000
    assert min(found["selective/recall"]["recall"].values()) >= 0.98
    assert [path.name for path in plots.write(found, tmp_path)] == ["scale.svg", "selective.svg"]
    assert "<svg" in (tmp_path / "scale.svg").read_text()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="memory is measured on Linux only")
def test_what_a_process_pays_is_measured(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("langchain_chroma", reason="pip install 'lir-agents[bench]'")
    short(data, tmp_path, "process", limit=1)
    found = tables.load(tmp_path / "results")
    assert found["process/import"]["torch"] is False, "`import lir_agents` does not load torch"
    assert found["process/memory"]["grown"]["tokens, own copies"] == 0, "token vectors are mapped, not loaded"


@pytest.mark.long
def test_what_telemetry_costs_is_measured(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install 'lir-agents[telemetry]'")
    short(data, tmp_path, "telemetry", limit=2)
    found = tables.load(tmp_path / "results")["speed/telemetry"]
    assert found["latency_ms"].keys() == {"off", "on", "off again"}
    assert found["left_when_off_us"] < 100
    assert found["on to off"]["low"] <= found["on to off"]["ratio"] <= found["on to off"]["high"]


def short(data: Path, work: Path, *names: str, limit: int) -> None:
    """Measurements over the mixture of all the collections that there are."""
    where = ["--data", str(data), "--indexes", str(work / "indexes"), "--results", str(work / "results")]
    assert main([*where, *(part for name in names for part in ("--only", name)), "--limit", str(limit)]) == 0


# ---------------------------------------------------------------- one corpus out of many


def test_the_mixture_takes_vectors_that_are_there(data: Path, tmp_path: Path) -> None:
    bench = Bench(data, tmp_path / "indexes", tmp_path / "results", limit=20)
    with corpus.mixed(bench, 30) as mixture:
        assert mixture.stats()["live_passages"] >= 30
        names = {one.document_id: one.row for one in mixture.rooms.catalog.passages(mixture.rooms.tokens.rows())}
        name, row = next((name, row) for name, row in names.items() if name.startswith("med/"))
        tokens = mixture.rooms.tokens.gather(np.array([row]))
    dataset = Dataset.load(data / "med")
    with bench.index(dataset) as index:
        theirs = index.rooms.tokens.gather(index.rooms.catalog.rows_of([name.removeprefix("med/")])[name[4:]])
    assert np.array_equal(tokens.data, theirs.data)


def test_a_governed_mixture_shows_each_class_to_its_group(data: Path, tmp_path: Path) -> None:
    bench = Bench(data, tmp_path / "indexes", tmp_path / "results", limit=20)
    with corpus.mixed(bench, 20, governed=True) as mixture:
        everybody = Principal("all", groups=[f"group:{number}" for number in range(corpus.CLASSES)])
        assert len(mixture.search("leave", principal=everybody, k=5)) == 5
        seen = {hit.document_id for hit in mixture.search("leave", principal=Principal("one", groups=["group:0"]))}
        assert len(seen) == 1


def test_a_promise_says_whether_it_is_kept() -> None:
    found: dict[str, Any] = {"process/import": {"import_ms": {"p50": 40.0}}}
    assert bars.bars(found).endswith("| `import lir_agents` | 40 ms | ≤ 50 ms | yes |")
    found["process/import"]["import_ms"]["p50"] = 60.0
    assert bars.bars(found).endswith("| ≤ 50 ms | **no** |")
    assert bars.bars({}) == markdown.ABSENT


def test_a_ratio_is_of_medians_and_its_interval_holds_it() -> None:
    taken = {"slow": [4.0, 6.0, 500.0, 5.0, 5.0], "fast": [2.0, 3.0, 2.0, 2.5, 2.5]}
    found = timing.ratio(taken, "slow", "fast")
    assert found["ratio"] == 2.0
    assert found["low"] <= 2.0 <= found["high"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().out


def test_another_machine_has_a_column_of_its_own_and_changes_no_other_table(results: Path, tmp_path: Path) -> None:
    here = tables.load(results) | {"process/import": {"import_ms": {"p50": 20.0}, "machine": _MACHINE}}
    there = {
        "machines/slow/process/import": {"import_ms": {"p50": 60.0}, "machine": _MACHINE | {"cpu": "Slow"}},
        "machines/fast/process/import": {"import_ms": {"p50": 10.0}, "machine": _MACHINE | {"cpu": "Fast"}},
    }
    _, _, build = tables.TABLES["machines"]
    assert build(here) == markdown.ABSENT
    head, _, *rows = build(here | there).splitlines()
    assert head.index("Slow (avx2), 2 cores") < head.index("Fast (avx2), 2 cores")
    assert rows == ["| `import lir_agents` | ≤ 50 ms | **60 ms** | 10 ms |"]
    for name, (_, _, made) in tables.TABLES.items():
        assert name == "machines" or made(here | there) == made(here), name
    for name, one in there.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))
    assert tables.load(tmp_path) == there
    assert "Machine: none yet" in tables.report(tmp_path)
