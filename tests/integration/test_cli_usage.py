"""The command line as a person meets it: help, wrong usage, errors; each in a process of its own."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from typer.models import CommandInfo

from lir_agents.cli.app import app
from lir_agents.cli.audit_app import audit

COMMANDS = ["demo", "ingest", "search", "eval", "stats", "doctor", "audit"]
AUDIT_COMMANDS = ["log", "show", "verify", "checkpoint", "key", "export"]


def lir(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", "from lir_agents.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
    )


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    script = """
import sys
from lir_agents.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {"torch", "chromadb", "transformers", "langchain_core", "numpy", "lir_agents.engine"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [["audit", name] for name in AUDIT_COMMANDS])
def test_every_command_teaches_by_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from lir_agents.cli import main

    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "Examples" in shown
    assert f"lir {' '.join(command)}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["search"],
        ["search", "question"],
        ["search", "question", "--index", "x", "-k", "0"],
        ["search", "question", "--index", "x", "-k", "many"],
        ["search", "question", "--index", "x", "--as", "alice,,bob"],
        ["search", "question", "--index", "x", "--filter", "{"],
        ["search", "question", "--index", "x", "--filter", "[1]"],
        ["ingest", "--index", "x"],
        ["ingest", "a.md", "--index", "x", "--access", "everybody"],
        ["eval"],
        ["eval", "folder", "--memory", "maybe"],
        ["eval", "folder", "--limit", "0"],
        ["eval", "no-such-folder"],
        ["eval", "no-such-folder", "--systems", "bm42"],
        ["audit", "show", "--index", "x"],
        ["audit", "log", "--index", "no-such-index"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lir_agents.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deep"),
        ('{"a":' + "1" * 5_000 + "}", "too long"),
    ],
    ids=["deep", "long"],
)
def test_a_filter_that_cannot_be_read_is_wrong_usage(
    value: str, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from lir_agents.cli import main

    with pytest.raises(SystemExit) as end:
        main(["search", "question", "--index", str(tmp_path / "x"), "--filter", value])
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert why in shown
    assert len(shown) < 200


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["search", "question", "--index", "x"], "name the directory of an index"),
        (["audit", "key", "--key", "absent/signing.pem"], "signing.pem cannot be made (No such file or directory)"),
        (["audit", "key", "--key", "."], "cannot be read (Is a directory)"),
    ],
    ids=["index", "key", "directory"],
)
def test_advice_is_for_who_types_commands(
    arguments: list[str],
    remedy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from lir_agents.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (1, 2)
    shown = capsys.readouterr().err
    assert remedy in shown
    for word in ("create=True", "None", "Errno"):
        assert word not in shown


@pytest.mark.parametrize("command", [*app.registered_commands, *audit.registered_commands])
def test_help_is_broken_where_the_screen_ends(
    command: CommandInfo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lir_agents.cli import main

    assert command.callback is not None
    path = ["audit"] if command in audit.registered_commands else []
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main([*path, command.name or command.callback.__name__, "--help"])
    shown = capsys.readouterr().out
    for paragraph in (inspect.getdoc(command.callback) or "").split("\n\n"):
        assert " ".join(paragraph.split()) in shown


def test_an_error_is_one_line_with_its_remedy_and_no_traceback(tmp_path: Path) -> None:
    done = lir("eval", str(tmp_path / "absent"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("lir: dataset: ")
    assert "is not a folder. The layout is corpus.jsonl" in done.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    done = lir("eval", str(tmp_path / "absent"), LIR_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    from lir_agents import __version__
    from lir_agents.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lir {__version__}\n"
