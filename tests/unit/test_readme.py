"""README and docs run as printed: Python in order, output as shown, commands and links exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from lir_agents.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+\.\d+")


class ScriptedModel(GenericFakeChatModel):
    """Stands for the reader's chat model."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:
        return self


def blocks() -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in BLOCK.finditer(README)]


def without_numbers(text: str) -> str:
    """Scores differ by a hair between processors: only that there is a number is compared."""
    return "\n".join(re.sub(r" +", " ", NUMBER.sub("0.0", line)).rstrip() for line in text.strip().splitlines())


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    call = AIMessage("", tool_calls=[{"name": "search_documents", "args": {"query": "leave"}, "id": "1"}])
    names: dict[str, Any] = {"model": ScriptedModel(messages=iter([call, "In March [hr/leave#1.0]."]))}
    yield names
    for name in ("index", "store"):
        if name in names:
            names[name].close()


def test_python_runs_in_order_and_prints_what_is_shown(namespace: dict[str, Any]) -> None:
    ran = shown = 0
    printed = ""
    for language, body in blocks():
        if language == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(body, f"README.md, block {ran + 1}", "exec"), namespace)
            printed, ran = said.getvalue(), ran + 1
        elif language == "text":
            assert without_numbers(printed) == without_numbers(body)
            shown += 1
    assert (ran, shown) == (9, 8)
    assert "hr/leave#1.0" in namespace["state"]["messages"][-2].content, "the agent's tool found the passage"


@pytest.mark.parametrize(
    ("name", "needs"),
    [("audit", ""), ("policy", "cedarpy"), ("redaction", ""), ("telemetry", "opentelemetry.sdk")],
)
def test_the_python_of_a_page_runs_in_order(
    name: str, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if needs:
        pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    ran = 0
    for language, body in ((match[1], match[2]) for match in BLOCK.finditer(page)):
        if language == "python":
            ran += 1
            exec(compile(body, f"docs/{name}.md, block {ran}", "exec"), names)
    assert ran


def test_the_first_example_is_fifteen_lines() -> None:
    first = next(body for language, body in blocks() if language == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 16


def test_each_door_is_under_ten_lines() -> None:
    section = README[README.index("## The other doors") : README.index("## What the conversation")]
    doors = [match[2] for match in BLOCK.finditer(section) if match[1] == "python"]
    assert len(doors) == 4
    assert max(len(body.strip().splitlines()) for body in doors) < 10


def test_every_command_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    lines = [line for language, body in blocks() if language == "sh" for line in body.splitlines()]
    lines += re.findall(r"`((?:make|lir|python -m) [^`]+)`", README)
    named = {"make": set(), "lir": set()}
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and words[0] in named:
            named[words[0]].add(words[1])
    assert {"demo", "test"} <= named["make"]
    assert named["make"] <= targets
    assert {name for name in named["lir"] if not name.startswith("-")} <= commands


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_table_is_one_that_is_generated() -> None:
    from benchmarks.tables import TABLES, filled

    for page in (README, (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"<!-- table: (\w+) -->", page)) <= TABLES.keys()
        assert filled(page, {}).count("No result file yet") == page.count("<!-- table: ")
