"""What is declared as the lowest version of each framework is what `make test-lowest` installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"langchain", "langchain-core", "langgraph", "langgraph-checkpoint-sqlite", "llama-index-core"}


def version(text: str) -> tuple[int, ...]:
    numbers = [int(part) for part in text.split(".")]
    return (*numbers, *[0] * (3 - len(numbers)))


def test_lower_bounds_are_those_that_are_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["langchain"], *extras["llama-index"]]
    declared = {found[1]: version(found[2]) for line in wanted if (found := re.match(r"([a-z-]+)>=([\d.]+)", line))}
    pinned = dict(re.findall(r"^([a-z-]+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(), re.MULTILINE))
    assert {name: version(pinned[name]) for name in FRAMEWORKS} == {name: declared[name] for name in FRAMEWORKS}


def test_the_table_in_the_docs_says_the_same() -> None:
    said = (ROOT / "docs" / "compatibility.md").read_text()
    for name, low in re.findall(
        r"^([a-z-]+)==([\d.]+)$", (ROOT / "tests" / "lowest.txt").read_text(), re.MULTILINE
    ):
        if name in FRAMEWORKS:
            assert re.search(rf"^\| {name}( \(.*\))? \| >=.* \| {re.escape(low)} \|", said, re.MULTILINE), name
