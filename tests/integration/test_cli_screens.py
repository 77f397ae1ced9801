"""What the commands print fits where it goes: narrow screens, pipes, streams that spell less than Unicode."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from lir_agents.cli import main

QUERY = "soup — “日本” 🍜"
Lir = Callable[..., str]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of one document that was asked once, in words that few encodings spell."""
    root = tmp_path_factory.mktemp("screens")
    (root / "canteen.txt").write_text("The canteen serves soup — “日本” 🍜.", encoding="utf-8")
    for arguments in (["ingest", str(root / "canteen.txt")], ["search", QUERY, "--as", "Ōe", "--json"]):
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--index", str(root / "one index.lir")])
        assert not end.value.code
    return root / "one index.lir"


@pytest.fixture
def lir(capsys: pytest.CaptureFixture[str]) -> Lir:
    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert not end.value.code
        return capsys.readouterr().out

    return run


@pytest.fixture
def spelt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command whose standard output has another encoding."""

    def run(encoding: str, *arguments: object) -> str:
        written = io.BytesIO()
        stream = io.TextIOWrapper(written, encoding=encoding, write_through=True)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            with pytest.raises(SystemExit) as end:
                main([str(argument) for argument in arguments])
        assert not end.value.code
        return written.getvalue().decode(encoding)

    return run


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def terminal(columns: int) -> None:
        for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", str(columns))):
            monkeypatch.setenv(name, value)

    return terminal


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "shift_jis"])
def test_a_stream_that_spells_less_gets_what_it_can_spell(
    spelt: Callable[..., str], index: Path, encoding: str
) -> None:
    shown = spelt(encoding, "search", "soup", "--index", index, "--explain")
    assert "The canteen serves soup" in shown
    assert "####" in shown
    assert "日本" in shown or "??" in shown
    assert len({cell_len(line) for line in shown.splitlines() if line.startswith("| ")}) == 2, (
        "columns stay aligned"
    )
    assert "events" in spelt(encoding, "audit", "verify", "--index", index)
    assert "soup" in spelt(encoding, "audit", "log", "--index", index)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_holds_every_character_whatever_the_stream_spells(
    spelt: Callable[..., str], index: Path, encoding: str
) -> None:
    found = json.loads(spelt(encoding, "search", "soup", "--index", index, "--json"))
    assert found["hits"][0]["text"] == "The canteen serves soup — “日本” 🍜."
    events = [json.loads(line) for line in spelt(encoding, "audit", "export", "--index", index).splitlines()]
    assert [json.loads(event["body"])["principal"] for event in events[:2]] == ["", "Ōe"]
    log = json.loads(spelt(encoding, "audit", "log", "--index", index, "--json", "-n", 100))
    assert log[1]["payload"]["query"] == QUERY


@pytest.mark.parametrize("columns", [50, 80, 120, 200])
def test_the_log_says_what_happened_on_any_screen(
    lir: Lir, index: Path, narrow: Callable[[int], None], columns: int
) -> None:
    narrow(columns)
    shown = lir("audit", "log", "--index", index)
    event = json.loads(lir("audit", "log", "--index", index, "--json"))[0]
    for piece in (event["event_id"], "ingest", "added=1", "retrieval", f"query={QUERY}", "k=10"):
        assert "".join(piece.split()) in "".join(shown.split()), "whole, if broken"
    lines = [line.strip() for line in shown.splitlines()]
    assert all(lines[1:-1]), "no blank lines between the events"


def test_the_log_is_as_wide_as_it_needs_to_be_in_a_pipe(
    lir: Lir, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = lir("audit", "log", "--index", index)
    assert any("retrieval" in line and f"query={QUERY}" in line for line in shown.splitlines())


def test_stats_show_whole_numbers_on_a_narrow_screen(lir: Lir, index: Path, narrow: Callable[[int], None]) -> None:
    narrow(40)
    shown = lir("stats", "--index", index)
    whole = json.loads(lir("stats", "--index", index, "--json"))["latency"]["whole_ms"]
    assert "…" not in shown
    for name in ("p50", "p99"):
        assert f"{whole[name]:,.1f}" in shown


def test_the_next_command_can_be_typed_as_it_stands(lir: Lir, index: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Soup.")
    made = tmp_path / "an index"
    shown = lir("ingest", tmp_path / "a.txt", "--index", made)
    assert shown.splitlines()[-1] == f"next: lir search \"…\" --index '{made}'"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "search soup --index INDEX", "search soup --json --index INDEX"])
def test_output_that_cannot_be_written_is_one_line(index: Path, arguments: str) -> None:
    command = [sys.executable, "-c", "from lir_agents.cli import main; main()"]
    given = [str(index) if one == "INDEX" else one for one in arguments.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, *given], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("lir: ")
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
