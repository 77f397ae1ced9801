"""The benchmarks run end to end on a collection of a few lines, and their tables say what their files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.__main__ import main
from benchmarks.ablation import SWITCHES
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
    assert found["spliced"]["first turns"]["queries"] == 1
    assert found["spliced"]["stand-alone turns"]["queries"] == 2


def test_ablation_takes_out_what_a_collection_has(results: Path) -> None:
    assert result(results, "ablation/mtrag_clapnq")["without"].keys() == SWITCHES.keys()


def test_tables_say_what_the_files_say(results: Path) -> None:
    page = tables.report(results)
    lir = result(results, "quality/mtrag_clapnq")["systems"]["lir"]["nDCG@10"]
    assert f"{lir:.4f}" in page
    assert "| without topic gate |" in tables.ablation_page(tables.load(results))
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


@pytest.mark.long
def test_a_tools_answer_lifts_what_it_names(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path, "memory", of="nodejs_versions")
    systems = result(tmp_path / "results", "memory/nodejs_versions")["systems"]
    assert systems["on"]["nDCG@10"] >= systems["off"]["nDCG@10"]
    assert systems["wrong"]["nDCG@10"] == pytest.approx(systems["off"]["nDCG@10"]), "confidence .2 moves nothing"


@pytest.mark.long
def test_one_byte_per_dimension_keeps_the_ranking(data: Path, tmp_path: Path) -> None:
    measure(data, tmp_path, "storage", of="med")
    found = result(tmp_path / "results", "storage/med")
    assert found["quality_ratio"] > 0.9
    assert 0.2 < found["bytes_ratio"] < 0.6, "a few passages, so whole pages weigh"


@pytest.mark.long
def test_adding_again_and_speed_are_measured(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("langchain_chroma", reason="pip install 'lir-agents[bench]'")
    measure(data, tmp_path, "ingest", "speed", of="mtrag_clapnq", more=["--limit", "5"])
    ingest = result(tmp_path / "results", "ingest/mtrag_clapnq")
    assert (ingest["added"], ingest["unchanged"]) == (5, 5)
    search = result(tmp_path / "results", "speed/search")["latency_ms"]
    assert search.keys() == {"index.search", "LateInteractionRetriever", "langchain-chroma"}
    assert "maxsim, int8" in result(tmp_path / "results", "speed/maxsim")["latency_ms"]["384"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().out
