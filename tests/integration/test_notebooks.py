"""Every notebook runs as it stands, in its short form; what is committed was run whole and shows its plots.

`python -m tests.integration.test_notebooks [NAME…]` runs them whole and writes their outputs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = ["01_tour", "02_memory_and_tools", "03_tuning_fusion", "04_access_and_audit"]


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def plots(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def execute(notebook: Any, timeout_s: int = 240) -> None:
    NotebookClient(notebook, timeout=timeout_s, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran is nobody's business, and changes every time


def test_every_notebook_is_tried() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIR_NOTEBOOK", "short")
    monkeypatch.chdir(tmp_path)
    notebook = read(name)
    committed = plots(notebook)
    execute(notebook)
    assert plots(notebook) == committed > 0
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing behind"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_from_top_to_bottom(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    warned = [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert not warned, warned
    text = re.sub(r'"image/png": "[^"]*"', "", (NOTEBOOKS / f"{name}.ipynb").read_text())
    assert not re.search(r"/(root|home|work|tmp|Users)/", text), "a path of the machine that it was run on"
    assert "<script" not in text


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        whole = read(wanted)
        execute(whole)
        nbformat.write(whole, NOTEBOOKS / f"{wanted}.ipynb")
