"""`python -m benchmarks --data DIR` measures; `python -m benchmarks tables` writes the tables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import tables
from benchmarks.bench import Bench, load, say

NAMES = (
    "quality",
    "memory",
    "ablation",
    "access",
    "governing",
    "storage",
    "ingest",
    "scoring",
    "speed",
    "rerankers",
    "lexical",
    "scale",
    "selective",
    "concurrency",
    "process",
    "telemetry",
)
_HERE = Path(__file__).parent
_ROOT = _HERE.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for. Returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.command == "tables":
        tables.write(_HERE / "results", _ROOT)
        return 0
    if not given.data.is_dir():
        say(f"There is no folder {given.data}. Name one in the evaluation layout: --data DIR.")
        return 2
    bench = Bench(
        data=given.data,
        indexes=given.indexes,
        results=given.results or (given.indexes / "limited" if given.limit else _HERE / "results"),
        limit=given.limit,
        sets=tuple(given.set) if given.set else None,
        resume=given.resume,
    )
    for name in given.only or NAMES:
        say(f"== {name}")
        if load() > (os.cpu_count() or 1):
            say(f"this machine is busy (load {load():.1f}): times are of little worth now, ratios of more")
        run: Callable[[Bench], None] = import_module(f"benchmarks.{name}").run
        run(bench)
    if bench.results == _HERE / "results":
        tables.write(bench.results, _ROOT)
    else:
        print(tables.report(bench.results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "tables"), default="run")
    parser.add_argument("--data", type=Path, default=_ROOT.parent / "shared" / "data", metavar="DIR")
    parser.add_argument("--only", action="append", choices=NAMES, help="this one only; may be repeated")
    parser.add_argument("--set", action="append", metavar="NAME", help="this collection only; may be repeated")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N queries (documents, in ingest)")
    parser.add_argument(
        "--indexes",
        type=Path,
        default=_ROOT / ".bench",
        metavar="DIR",
        help="where indexes are built once, and reused",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where result files go: benchmarks/results, or with --limit a folder under --indexes",
    )
    parser.add_argument("--resume", action="store_true", help="let results of this very source code stand")
    return parser


if __name__ == "__main__":
    sys.exit(main())
