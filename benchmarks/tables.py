"""Tables out of result files: benchmarks/results/README.md, docs/ablation.md, and the tables of README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import ablation, access, memory, quality, storage

Results = dict[str, dict[str, Any]]
_SYSTEMS = ("bm25", "dense", "hybrid", "maxsim", "lir")


def load(results: Path) -> Results:
    """Every result file by its name: "quality/scifact"."""
    files = sorted(results.glob("*/*.json"))
    return {
        file.relative_to(results).with_suffix("").as_posix(): json.loads(file.read_text("utf-8")) for file in files
    }


def write(results: Path, root: Path) -> None:
    """Writes every page that holds tables."""
    (results / "README.md").write_text(report(results), encoding="utf-8")
    (root / "docs" / "ablation.md").write_text(ablation_page(load(results)), encoding="utf-8")
    readme = root / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8"), load(results)), encoding="utf-8")


def filled(text: str, results: Results) -> str:
    """The text with every `<!-- table: NAME -->` … `<!-- end -->` filled anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def report(results: Path) -> str:
    """All tables as one page."""
    found = load(results)
    parts = [
        "# Measured results",
        "nDCG@10 unless named; the bundled model; the same weights everywhere. Each file beside this page holds "
        "one measurement with the machine and the digest of the source it was made with. Reproduce them all: "
        "`make bench DATA=DIR`; this page alone: `python -m benchmarks tables`.",
        f"Machine: {_machine(found)}",
    ]
    for name, build in TABLES.items():
        if (table := build(found)) == _ABSENT:
            continue
        parts += [f"## {_TITLES[name]}", f"`python -m benchmarks --data DIR --only {_SOURCES[name]}`", table]
    return "\n\n".join(parts) + "\n"


_ABLATION = """# What each signal is worth

nDCG@10 of the product, and what is lost (negative) or won where one signal is taken out of the score while
everything else stays, candidates included. History and tool outputs are fed in. `*` marks differences with p < .05
in the paired randomisation test. Written by `python -m benchmarks tables` from the files that
`python -m benchmarks --data DIR --only ablation` makes.

{table}

What the rows mean: `token weights`, every query token counts alike; `prior`, mean and spread of each signal are
taken from the candidates alone; `context vectors`, the turn is not read again in the light of the conversation;
`context terms`, the conversation lends no words to BM25; `completeness`, context counts in full also for turns of
many words; `best block`, MaxSim looks at whole passages only. How the weights were chosen: [tuning.md](tuning.md).
"""


def ablation_page(results: Results) -> str:
    """docs/ablation.md."""
    return _ABLATION.format(table=_ablation(results))


# ---------------------------------------------------------------- tables


def _quality(results: Results) -> str:
    found = _of(results, "quality", quality.SETS)
    if not found:
        return _ABSENT
    rows = []
    for name, result in found:
        scores = {system: result["systems"][system]["nDCG@10"] for system in _SYSTEMS}
        gain = scores["lir"] - max(value for system, value in scores.items() if system != "lir")
        rows.append([name, *_bold(scores.values()), f"{gain:+.4f}", _probability(result["p_value"])])
    means = [fmean(result["systems"][system]["nDCG@10"] for _, result in found) for system in _SYSTEMS]
    best = max(means[:-1])
    rows.append(["**mean**", *_bold(means), f"{means[-1] - best:+.4f} ({means[-1] / best - 1:+.1%})", ""])
    return _table(["collection", *_SYSTEMS, "lir against the best of the others", "p"], rows)


def _memory(results: Results) -> str:
    found = _of(results, "memory", memory.CONVERSATIONS)
    if not found:
        return _ABSENT
    rows = []
    for name, result in found:
        scores = [result["systems"][system]["nDCG@10"] for system in ("off", "on", "rewrite")]
        first = result["first_turns"]
        rows.append([name, *_bold(scores), f"{first['differing']} of {first['queries']}"])
    tuned = [result for name, result in found if name != "mtrag_govt"]
    for label, group in (("**mean**", [result for _, result in found]), ("**mean without mtrag_govt**", tuned)):
        if group and (label == "**mean**" or len(group) < len(found)):
            means = [
                fmean(one["systems"][system]["nDCG@10"] for one in group) for system in ("off", "on", "rewrite")
            ]
            rows.append([label, *_bold(means), ""])
    return _table(["collection", "memory off", "memory on", "a person's rewrite", "first turns that differ"], rows)


def _spliced(results: Results) -> str:
    rows = []
    for name, result in _of(results, "memory", memory.CONVERSATIONS):
        for kind, one in (result["spliced"] or {}).items():
            rows.append([name, kind, one["queries"], *_points(one["off"], one["on"]), f"{one['difference']:+.4f}"])
    for kind in dict.fromkeys(row[1] for row in rows):
        mean = fmean(float(row[-1]) for row in rows if row[1] == kind)
        rows.append(["**mean**", kind, "", "", "", f"{mean:+.4f}"])
    head = [
        "collection",
        "turns after a conversation from elsewhere",
        "turns",
        "memory off",
        "memory on",
        "difference",
    ]
    return _table(head, rows) if rows else _ABSENT


def _scoped(results: Results) -> str:
    rows = []
    for name, result in _of(results, "memory", memory.SCOPED):
        scores = {system: result["systems"][system]["nDCG@10"] for system in _SYSTEMS}
        rows.append([name, *_bold(scores.values()), f"{scores['lir'] - max(scores['bm25'], scores['dense']):+.4f}"])
    return _table(["collection", *_SYSTEMS, "lir against the better of bm25 and dense"], rows) if rows else _ABSENT


def _tools(results: Results) -> str:
    rows = []
    for name, result in _of(results, "memory", memory.VERSIONED):
        scores = [result["systems"][system]["nDCG@10"] for system in ("off", "on", "wrong")]
        rows.append([name, *_points(*scores)])
    head = ["collection", "no tool output", "tool output, boost", "wrong version claimed at confidence .2"]
    return _table(head, rows) if rows else _ABSENT


def _ablation(results: Results) -> str:
    found = _of(results, "ablation", ablation.SETS)
    if not found:
        return _ABSENT
    rows = [["**all signals**", *(f"**{result['all']:.4f}**" for _, result in found), ""]]
    for signal in ablation.SWITCHES:
        cells = [result["without"].get(signal) for _, result in found]
        if any(cells):
            differences = [cell["difference"] for cell in cells if cell]
            rows.append([f"without {signal}", *map(_difference, cells), f"{fmean(differences):+.4f}"])
    return _table(["", *(name for name, _ in found), "mean"], rows)


def _difference(cell: dict[str, float] | None) -> str:
    return "" if cell is None else f"{cell['difference']:+.4f}" + ("*" if cell["p_value"] < 0.05 else "")


def _storage(results: Results) -> str:
    rows = [
        [
            name,
            *_points(result["nDCG@10"]["int8"], result["nDCG@10"]["float32"]),
            f"{result['quality_ratio']:.2%}",
            f"{result['bytes']['int8'] / 1e6:.1f} MB",
            f"{result['bytes']['float32'] / 1e6:.1f} MB",
            f"{result['bytes_ratio']:.3f}",
        ]
        for name, result in _of(results, "storage", storage.SETS)
    ]
    head = ["collection", "int8", "float32", "quality kept", "int8 store", "float32 vectors", "bytes ratio"]
    return _table(head, rows) if rows else _ABSENT


def _ingest(results: Results) -> str:
    rows = [
        [
            name.partition("/")[2],
            f"{result['documents']:,}",
            f"{result['add_s']:.1f} s",
            f"{result['documents_per_s']:.1f}",
            f"{result['add_again_s']:.2f} s",
            f"{result['ratio']:.2%}",
        ]
        for name, result in results.items()
        if name.startswith("ingest/")
    ]
    return (
        _table(["collection", "documents", "add", "documents/s", "add again, unchanged", "ratio"], rows)
        if rows
        else _ABSENT
    )


def _speed(results: Results) -> str:
    rows: list[list[str]] = []
    for name, what in (
        ("search", "k = 10, {passages:,} passages"),
        ("memory", "{remembered_turns} remembered turns"),
    ):
        if result := results.get(f"speed/{name}"):
            rows += _latencies(f"{name}: " + what.format(**result), result["latency_ms"])
    for dim, taken in results.get("speed/maxsim", {}).get("latency_ms", {}).items():
        rows += _latencies(f"MaxSim, 32 × 100 × 150 tokens, {dim} dimensions", taken)
    return _table(["measured", "system", "p50 ms", "p95 ms"], rows) if rows else _ABSENT


def _access(results: Results) -> str:
    rows: list[list[str]] = []
    for name, result in _of(results, "access", access.DENYING):
        scores = {system: result["systems"][system]["nDCG@10"] for system in _SYSTEMS}
        rows.append(
            [
                name,
                *(f"{value:.4f}" for value in scores.values()),
                f"{result['denied']}",
                f"{sum(result['leaks'].values())}",
                f"{len(result['traces'])}",
            ]
        )
    head = ["collection", *_SYSTEMS, "to be denied", "answers with a forbidden document", "any trace of one"]
    return _table(head, rows) if rows else _ABSENT


def _tenants(results: Results) -> str:
    rows = [
        [name, f"{result['tenants']}", f"{result['queries']}", what, f"{leaks}"]
        for name, result in _of(results, "access", access.TENANTS)
        for what, leaks in result["leaks"].items()
    ]
    return _table(["collection", "tenants", "queries", "looked at", "leaks"], rows) if rows else _ABSENT


def _governing(results: Results) -> str:
    rows: list[list[str]] = []
    if checked := results.get("governing/access"):
        what = f"access, {checked['passages']:,} passages, {checked['access_classes']} classes"
        for name, one in checked["latency_ms"].items():
            rows.append([what, name, *_p(one), f"{checked['ratio_of_p50'][name]:.2f} ×"])
    if recorded := results.get("governing/audit"):
        for name, one in recorded["latency_ms"].items():
            added = recorded["added_ms"].get(name)
            interval = (
                "" if added is None else f"{added['p50']:+.2f} ms ({added['low']:+.2f} to {added['high']:+.2f})"
            )
            rows.append(["audit", name, *_p(one), interval])
        for name, one in recorded["append_ms"].items():
            rows.append(["the append within such a search", name, *_p(one), ""])
        for when, taken in recorded["fdatasync_ms"].items():
            rows.append(["a bare disk sync of 16 KB", when, f"{taken:.2f}", "", ""])
    return _table(["measured", "", "p50 ms", "p95 ms", "against without"], rows) if rows else _ABSENT


def _p(one: dict[str, float]) -> list[str]:
    return [f"{one['p50']:.2f}", f"{one['p95']:.2f}"]


def _latencies(what: str, taken: dict[str, dict[str, float]]) -> list[list[str]]:
    return [[what, system, f"{one['p50']:.2f}", f"{one['p95']:.2f}"] for system, one in taken.items()]


TABLES: dict[str, Callable[[Results], str]] = {
    "quality": _quality,
    "memory": _memory,
    "spliced": _spliced,
    "scoped": _scoped,
    "tools": _tools,
    "ablation": _ablation,
    "storage": _storage,
    "ingest": _ingest,
    "speed": _speed,
    "access": _access,
    "tenants": _tenants,
    "governing": _governing,
}
_TITLES = {
    "quality": "Ranking quality, memory off",
    "memory": "Conversations",
    "spliced": "Topic shifts",
    "scoped": "Long conversations, scoped by a filter",
    "tools": "A tool's answer decides the version",
    "ablation": "What each signal is worth",
    "storage": "Token vectors in one byte per dimension",
    "ingest": "Adding documents",
    "speed": "Speed",
    "access": "What may not be read",
    "tenants": "Tenants",
    "governing": "What governing costs",
}
_SOURCES = (
    dict.fromkeys(("memory", "spliced", "scoped", "tools"), "memory")
    | {name: name for name in ("quality", "ablation", "storage", "ingest", "speed", "access", "governing")}
    | {"tenants": "access"}
)
_ABSENT = "No result file yet: run `make bench`."

# ---------------------------------------------------------------- pieces


def _of(results: Results, kind: str, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, results[f"{kind}/{name}"]) for name in names if f"{kind}/{name}" in results]


def _machine(results: Results) -> str:
    machines = {
        f"{one['cpu']}, {one['cores']} cores, Python {one['python']}, torch {one['torch']}"
        for one in (result["machine"] for result in results.values())
    }
    return "; ".join(sorted(machines)) or "none yet"


def _bold(values: Iterable[float]) -> list[str]:
    listed = list(values)
    return [f"**{value:.4f}**" if value == max(listed) else f"{value:.4f}" for value in listed]


def _probability(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _points(*values: float) -> list[str]:
    return [f"{value:.4f}" for value in values]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
