"""`lir stats` and `lir doctor`: what an index holds, and whether everything works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.console import printable
from lir_agents.errors import IntegrityError

__all__ = ["Finding", "doctor", "stats"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of `lir doctor`."""

    check: str
    ok: bool
    detail: str


def stats(index_dir: Path, *, as_json: bool) -> int:
    """Prints what the index says of itself."""
    from lir_agents.engine import LateInteractionIndex

    with LateInteractionIndex.open(index_dir, create=False) as index:
        values = index.stats()
    if as_json:
        console.emit_json(values)
        return console.DONE
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, value in values.items():
        table.add_row(Text(name.replace("_", " "), style="bold"), Text(_readable(name, value), overflow="fold"))
    console.out().print(table)
    return console.DONE


def _readable(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_readable(str(key), item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value / 2**20:,.1f} MiB" if name.endswith("bytes") else f"{value:,}"
    return printable(str(value))


def doctor(index_dir: Path | None, *, as_json: bool) -> int:
    """Runs every check, says what each found; 1 if one failed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("libraries", _libraries),
        ("bundled encoder", _encoder),
    ]
    if index_dir is not None:
        checks.append(("index", lambda: _index(index_dir)))
    findings = [_run(name, check) for name, check in checks]
    ok = all(finding.ok for finding in findings)
    if as_json:
        console.emit_json({"ok": ok, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = Text("✔ ", style="green") if finding.ok else Text("✘ ", style="red")
            console.out().print(mark.append(f"{finding.check:<16}", style="bold").append(printable(finding.detail)))
    return console.DONE if ok else console.FAILED


def _run(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except Exception as error:  # noqa: BLE001  a doctor reports whatever it meets, and goes on
        return Finding(name, False, f"{type(error).__name__}: {error}")


def _python() -> str:
    return sys.version.split()[0]


def _libraries() -> str:
    from importlib import import_module

    names = ("torch", "chromadb", "lmdb", "sentence_transformers", "langgraph", "Stemmer", "selectolax", "pypdf")
    loaded = [(name, getattr(import_module(name), "__version__", "")) for name in names]
    return ", ".join(f"{name} {version}".strip() for name, version in loaded)


def _encoder() -> str:
    from lir_agents.encoding.base import QueryText
    from lir_agents.encoding.open import open_encoder

    encoder = open_encoder()
    (encoding,) = encoder.encode_queries([QueryText("does it work?")])
    return (
        f"{encoder.name}, {encoding.tokens.shape[1]} dimensions, weights {encoder.fingerprint[:12]}; "
        f"in {getattr(encoder, 'backend', 'torch')}"
    )


def _index(index_dir: Path) -> str:
    from lir_agents.engine import LateInteractionIndex

    with LateInteractionIndex.open(index_dir, create=False) as index:
        problems = index.verify()
        if problems:
            raise IntegrityError("; ".join(map(str, problems)))
        counts = index.stats()
    return f"{counts['documents']:,} documents, {counts['live_passages']:,} passages, nothing wrong"
