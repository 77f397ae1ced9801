"""`lir audit replay` on an index on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lir_agents.cli import main

Lir = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lir(capsys: pytest.CaptureFixture[str]) -> Lir:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


def test_a_search_is_replayed_at_the_command_line(lir: Lir, tmp_path: Path) -> None:
    file = tmp_path / "leave.md"
    file.write_text("# Leave\n\nEverybody has thirty days of leave a year.\n")
    index = tmp_path / "firm.lir"
    assert lir("ingest", file, "--index", index, "--acl", "user:alice,group:hr")[0] == 0
    found = json.loads(lir("search", "days of leave", "--index", index, "--as", "user:alice", "--json")[1])
    event = found["event_id"]

    code, shown, _ = lir("audit", "replay", event, "--index", index, "--as", "uma,group:hr", "--json")
    report = json.loads(shown)
    assert (code, report["same"], report["epoch"]) == (0, True, 1)
    assert [hit["passage_id"] for hit in report["replayed"]] == [hit["passage_id"] for hit in found["hits"]]
    assert lir("audit", "replay", event, "--index", index)[0] == 3  # nobody asks: refused
    code, shown, _ = lir("audit", "replay", event, "--index", index, "--as", "sam", "--json")
    assert (code, {hit["passage_id"] for hit in json.loads(shown)["replayed"]}) == (0, {None})

    file.write_text("# Leave\n\nNobody has leave.\n")
    assert lir("ingest", file, "--index", index, "--acl", "group:board")[0] == 0
    code, shown, _ = lir("audit", "replay", event, "--index", index, "--as", "uma,group:hr")
    assert code == 1
    assert "not the same" in shown
    assert "absent" in shown
    assert lir("audit", "replay", "00", "--index", index, "--as", "uma")[0] == 2
    assert lir("audit", "replay", event, "--index", tmp_path / "nothing")[0] == 2
