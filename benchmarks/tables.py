"""Tables out of result files: results/README.md, docs/ablation.md, and those in README.md and performance.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from benchmarks import ablation, access, memory, plots, quality, speed_tables
from benchmarks.bars import bars, machines
from benchmarks.markdown import ABSENT, MACHINES, Results, by_machine, machine_of, milliseconds, of, table

_SYSTEMS = ("bm25", "dense", "hybrid", "maxsim", "lir")


def load(results: Path) -> Results:
    """Every result file by its name: "quality/scifact"; other machines' too."""
    files = sorted([*results.glob("*/*.json"), *results.glob(f"{MACHINES}/*/*/*.json")])
    return {
        file.relative_to(results).with_suffix("").as_posix(): json.loads(file.read_text("utf-8")) for file in files
    }


def write(results: Path, root: Path) -> None:
    """Writes every page that holds tables, and the plots."""
    plots.write(load(results), results)
    (results / "README.md").write_text(report(results), encoding="utf-8")
    (root / "docs" / "ablation.md").write_text(ablation_page(load(results)), encoding="utf-8")
    for page in (root / "README.md", root / "docs" / "performance.md"):
        page.write_text(filled(page.read_text(encoding="utf-8"), load(results)), encoding="utf-8")


def filled(text: str, results: Results) -> str:
    """The text with every `<!-- table: NAME -->` … `<!-- end -->` filled anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]][2](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def report(results: Path) -> str:
    """All tables as one page."""
    found = load(results)
    parts = [
        "# Measured results",
        "nDCG@10 unless named; the bundled model; the same weights everywhere. Each file beside this page holds "
        "one measurement with the machine and the digest of the source it was made with. Reproduce them all: "
        "`make bench DATA=DIR`; this page alone: `python -m benchmarks tables`.",
        f"Machine: {machine_of(by_machine(found)[''])}",
    ]
    for name, (title, source, build) in TABLES.items():
        if (made := build(found)) == ABSENT:
            continue
        command = f"--only {source}" if source else ""
        parts += [f"## {title}", f"`python -m benchmarks --data DIR {command}`".replace(" `", "`"), made]
        if (results / f"{name}.svg").is_file():
            parts.append(f"![{title}]({name}.svg)")
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
    found = of(results, "quality", quality.SETS)
    if not found:
        return ABSENT
    rows = []
    for name, result in found:
        scores = {system: result["systems"][system]["nDCG@10"] for system in _SYSTEMS}
        gain = scores["lir"] - max(value for system, value in scores.items() if system != "lir")
        rows.append([name, *_bold(scores.values()), f"{gain:+.4f}", _probability(result["p_value"])])
    means = [fmean(result["systems"][system]["nDCG@10"] for _, result in found) for system in _SYSTEMS]
    best = max(means[:-1])
    rows.append(["**mean**", *_bold(means), f"{means[-1] - best:+.4f} ({means[-1] / best - 1:+.1%})", ""])
    return table(["collection", *_SYSTEMS, "lir against the best of the others", "p"], rows)


def _memory(results: Results) -> str:
    found = of(results, "memory", memory.CONVERSATIONS)
    if not found:
        return ABSENT
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
    return table(["collection", "memory off", "memory on", "a person's rewrite", "first turns that differ"], rows)


def _spliced(results: Results) -> str:
    rows = []
    for name, result in of(results, "memory", memory.CONVERSATIONS):
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
    return table(head, rows) if rows else ABSENT


def _scoped(results: Results) -> str:
    rows = []
    for name, result in of(results, "memory", memory.SCOPED):
        scores = {system: result["systems"][system]["nDCG@10"] for system in _SYSTEMS}
        rows.append([name, *_bold(scores.values()), f"{scores['lir'] - max(scores['bm25'], scores['dense']):+.4f}"])
    return table(["collection", *_SYSTEMS, "lir against the better of bm25 and dense"], rows) if rows else ABSENT


def _tools(results: Results) -> str:
    rows = []
    for name, result in of(results, "memory", memory.VERSIONED):
        scores = [result["systems"][system]["nDCG@10"] for system in ("off", "on", "wrong")]
        rows.append([name, *_points(*scores)])
    head = ["collection", "no tool output", "tool output, boost", "wrong version claimed at confidence .2"]
    return table(head, rows) if rows else ABSENT


def _ablation(results: Results) -> str:
    found = of(results, "ablation", ablation.SETS)
    if not found:
        return ABSENT
    rows = [["**all signals**", *(f"**{result['all']:.4f}**" for _, result in found), ""]]
    for signal in ablation.SWITCHES:
        cells = [result["without"].get(signal) for _, result in found]
        if any(cells):
            differences = [cell["difference"] for cell in cells if cell]
            rows.append([f"without {signal}", *map(_difference, cells), f"{fmean(differences):+.4f}"])
    return table(["", *(name for name, _ in found), "mean"], rows)


def _difference(cell: dict[str, float] | None) -> str:
    return "" if cell is None else f"{cell['difference']:+.4f}" + ("*" if cell["p_value"] < 0.05 else "")


def _access(results: Results) -> str:
    rows: list[list[str]] = []
    for name, result in of(results, "access", access.DENYING):
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
    return table(head, rows) if rows else ABSENT


def _tenants(results: Results) -> str:
    rows = [
        [name, f"{result['tenants']}", f"{result['queries']}", what, f"{leaks}"]
        for name, result in of(results, "access", access.TENANTS)
        for what, leaks in result["leaks"].items()
    ]
    return table(["collection", "tenants", "queries", "looked at", "leaks"], rows) if rows else ABSENT


def _governing(results: Results) -> str:
    rows: list[list[str]] = []
    if checked := results.get("governing/access"):
        what = f"access, {checked['passages']:,} passages, {checked['access_classes']} classes"
        for name, one in checked["latency_ms"].items():
            rows.append([what, name, *milliseconds(one), f"{checked['ratio_of_p50'][name]:.2f} ×"])
    if recorded := results.get("governing/audit"):
        for name, one in recorded["latency_ms"].items():
            added = recorded["added_ms"].get(name)
            interval = (
                "" if added is None else f"{added['p50']:+.2f} ms ({added['low']:+.2f} to {added['high']:+.2f})"
            )
            rows.append(["audit", name, *milliseconds(one), interval])
        for name, one in recorded["append_ms"].items():
            rows.append(["the append within such a search", name, *milliseconds(one), ""])
        for when, taken in recorded["fdatasync_ms"].items():
            rows.append(["a bare disk sync of 16 KB", when, f"{taken:.2f}", "", ""])
    return table(["measured", "", "p50 ms", "p95 ms", "against without"], rows) if rows else ABSENT


_OWN: dict[str, tuple[str, str, Callable[[Results], str]]] = {
    "quality": ("Ranking quality, memory off", "quality", _quality),
    "memory": ("Conversations", "memory", _memory),
    "spliced": ("Topic shifts", "memory", _spliced),
    "scoped": ("Long conversations, scoped by a filter", "memory", _scoped),
    "tools": ("A tool's answer decides the version", "memory", _tools),
    "ablation": ("What each signal is worth", "ablation", _ablation),
    "access": ("What may not be read", "access", _access),
    "tenants": ("Tenants", "access", _tenants),
    "governing": ("What governing costs", "governing", _governing),
}
TABLES = {
    "bars": ("Promises", "", bars),
    "machines": ("Promises on other machines", "", machines),
    **_OWN,
    **speed_tables.TABLES,
}
"""Title, measurement ("": all of them) and maker of each table."""

# ---------------------------------------------------------------- pieces


def _bold(values: Iterable[float]) -> list[str]:
    listed = list(values)
    return [f"**{value:.4f}**" if value == max(listed) else f"{value:.4f}" for value in listed]


def _probability(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _points(*values: float) -> list[str]:
    return [f"{value:.4f}" for value in values]
