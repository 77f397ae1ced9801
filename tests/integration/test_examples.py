"""Every example runs as it stands, offline, and says what it promises."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISED = {
    "adopt_chroma_collection": ["it/vpn", "5 documents"],
    "langchain_agent_memory": ["1. it/vpn-linux", "  was 3\n", "tool:my_computer +3.00", "The code of your token"],
    "langchain_rag_citations": ["thirty days", "[hr/leave#1.0] Annual leave, https://handbook.example/hr/leave"],
    "langgraph_support_agent": ["alice> How many days", "bob> How many days"],
    "llama_index_agent_workflow": [
        "bob reads: house/visitors, it/wifi\n",
        "bob> How do I",
        "See the passages above.",
    ],
    "llama_index_function_agent": ["use the gateway vpn-b", "found it/vpn#1.0", "The code of your token"],
    "llama_index_query_engine": ["twenty weeks", "[hr/parents#1.0] https://handbook.example/hr/parents"],
    "two_people": [
        "alice> How do I get into",
        "bob> How do I get into",
        "1. it/wifi#1.0",
        "bob: 2 grants meet the ACLs; in the log: True; asked again as of epoch 1, the same: True",
        "log as the checkpoint saw it: True",
    ],
    "own_colbert_checkpoint": ["1. hr/parents#1.0", "token vectors of 96 dimensions"],
}


@pytest.fixture(autouse=True)
def _as_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a script runs: its own folder first among the modules, nothing named in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in [name for name in os.environ if name.startswith("LIR_EXAMPLE_")]:
        monkeypatch.delenv(name)


def run(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("_")} == set(PROMISED)


@pytest.mark.filterwarnings("error::DeprecationWarning:lir_agents")
@pytest.mark.filterwarnings("error::DeprecationWarning:langchain")
@pytest.mark.parametrize("name", sorted(PROMISED))
def test_it_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = run(name, monkeypatch, capsys)
    for promised in PROMISED[name]:
        assert promised in said
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.mark.parametrize(
    ("module", "make", "variable", "opened"),
    [
        ("_handbook", "chat_model", "LIR_EXAMPLE_MODEL", "langchain.chat_models.init_chat_model"),
        ("_llama_index_model", "agent_model", "LIR_EXAMPLE_LLM", "_llama_index_model.resolve_llm"),
    ],
)
def test_one_variable_names_a_real_model(
    module: str, make: str, variable: str, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model = getattr(importlib.import_module(module), make)
    monkeypatch.setenv(variable, "provider:name")
    monkeypatch.setattr(opened, lambda name: f"opened {name}")
    assert make_model("never said") == "opened provider:name"


def test_the_support_agent_shows_each_principal_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run("langgraph_support_agent", monkeypatch, capsys).splitlines()
    read: dict[str, set[str]] = {"alice": set(), "bob": set()}
    for at, line in enumerate(lines):
        if "> " in line and not line.startswith(" "):
            read[line.split(">")[0]] |= set(lines[at + 2].removeprefix("    read: ").split(", "))
    assert "hr/leave" in read["alice"]
    assert read["bob"] == {"it/wifi", "house/visitors"}


def test_the_graph_that_a_langgraph_server_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = json.loads((EXAMPLES / "langgraph.json").read_text())
    file, name = settings["graphs"]["support"].split(":")
    monkeypatch.setenv("LIR_EXAMPLE_INDEX", str(tmp_path / "served.lir"))
    spec = importlib.util.spec_from_file_location("served_example", EXAMPLES / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "served_example", module)
    spec.loader.exec_module(module)
    graph: Any = getattr(module, name)()
    try:
        who = {"principal": {"id": "bob", "groups": ["group:guests"]}}
        output = graph.invoke({"messages": [("user", "How do I get into the network?")]}, context=who)
        assert {one.metadata["lir"]["document_id"] for one in output["documents"]} == {"it/wifi", "house/visitors"}
    finally:
        module.INDEXES.pop().close()
