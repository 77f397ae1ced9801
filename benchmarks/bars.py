"""What the measurements are to reach, beside what they have: one line for each promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.markdown import ABSENT, Results, by_machine, machine_of, table


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise.

    Attributes:
        what: In words.
        wanted: The limit of `value`.
        side: Whether the value is to be at most or at least that.
        source: The result file that holds it.
        value: The value out of that file; an error where it is not there.
        unit: Written behind the numbers.
    """

    what: str
    wanted: float
    side: Literal["≤", "≥"]
    source: str
    value: Callable[[dict[str, Any]], float]
    unit: str = "×"

    def met(self, value: float) -> bool:
        return value <= self.wanted if self.side == "≤" else value >= self.wanted


def _dim(dim: str, name: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: found["dims"][dim][name]["ratio"]


def _stored(what: str, setting: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: found[what][setting]


def _selective(share: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: found["against off"][share]["ratio"]


BARS = (
    Bar(
        "search, 10,000 passages, against langchain-chroma's dense retriever",
        0.75,
        "≤",
        "speed/search",
        lambda found: found["against langchain-chroma"]["index.search"]["ratio"],
    ),
    Bar(
        "the same against the fastest reranker that encodes anew: faster",
        60,
        "≥",
        "rerankers/search",
        lambda found: min(one["ratio"] for one in found["against index.search"].values()),
    ),
    Bar(
        "p50 at 100,000 passages against 10,000",
        1.5,
        "≤",
        "scale/curve",
        lambda found: found["largest against the one before"]["ratio"],
    ),
    *(
        Bar(
            f"access on, may read {share} of 100,000, against off", 1.5, "≤", "selective/latency", _selective(share)
        )
        for share in ("50 %", "10 %", "1 %", ".1 %")
    ),
    Bar(
        "recall@100 of the dense list, the least of these",
        0.98,
        "≥",
        "selective/recall",
        lambda found: min(found["recall"].values()),
        "",
    ),
    Bar(
        "MaxSim at 128 dimensions against maxsim-cpu: faster",
        6,
        "≥",
        "scoring/maxsim",
        _dim("128", "maxsim against maxsim-cpu"),
    ),
    Bar(
        "MaxSim at 384 dimensions against sentence-transformers: faster",
        20,
        "≥",
        "scoring/maxsim",
        _dim("384", "maxsim against sentence-transformers"),
    ),
    *(
        Bar(
            f"MaxSim at {dim} dimensions against the bare product",
            2.5,
            "≤",
            "scoring/maxsim",
            _dim(dim, "maxsim against the bare product"),
        )
        for dim in ("128", "384")
    ),
    Bar(
        "adding, passages/s, against langchain-chroma's `add_texts`",
        2,
        "≥",
        "ingest/passages",
        lambda found: found["langchain-chroma against index.add"]["ratio"],
    ),
    Bar(
        "8 threads against one: searches/s",
        1.7,
        "≥",
        "concurrency/threads",
        lambda found: found["throughput"]["ratio"],
    ),
    Bar("8 threads: p99 against p50", 3, "≤", "concurrency/threads", lambda found: found["p99 against p50"]),
    Bar(
        "memory at 100,000 passages beyond the model, mapped token vectors aside",
        1.0,
        "≤",
        "process/memory",
        lambda found: (found["grown"]["all"] - found["grown"]["tokens"]) / 1e9,
        "GB",
    ),
    Bar(
        "token vectors in memory of the process's own",
        0.0,
        "≤",
        "process/memory",
        lambda found: found["grown"]["tokens, own copies"] / 1e9,
        "GB",
    ),
    *(
        bar
        for setting, most, least in (("default", 200, 0.99), ("compact", 100, 0.97))
        for bar in (
            Bar(f"bytes per token, {setting}", most, "≤", "storage", _stored("bytes_per_token", setting), "bytes"),
            Bar(
                f"nDCG@10 of float32's that is kept, {setting}",
                least,
                "≥",
                "storage",
                _stored("quality_ratio", setting),
                "",
            ),
        )
    ),
    Bar("`import lir_agents`", 50, "≤", "process/import", lambda found: found["import_ms"]["p50"], "ms"),
)


def standings(results: Results) -> Iterator[tuple[Bar, float]]:
    """Every promise whose measurement is there, with what was measured; the mean over collections for storage."""
    for bar in BARS:
        found = [one for name, one in results.items() if name == bar.source or name.startswith(f"{bar.source}/")]
        try:
            values = [bar.value(one) for one in found]
        except (KeyError, TypeError):  # not measured, or by an older form of the measurement
            continue
        if values:
            yield bar, sum(values) / len(values)


def bars(results: Results) -> str:
    """The table of promises."""
    rows = [
        [
            bar.what,
            _number(value, bar.unit),
            f"{bar.side} {_number(bar.wanted, bar.unit)}",
            "yes" if bar.met(value) else "**no**",
        ]
        for bar, value in standings(results)
    ]
    return table(["promise", "measured", "wanted", "kept"], rows)


def machines(results: Results) -> str:
    """The same promises as other machines keep them; bold where one does not."""
    others = {name: found for name, found in by_machine(results).items() if name}
    if not others:
        return ABSENT
    told = [dict(standings(found)) for found in others.values()]
    rows = [
        [bar.what, f"{bar.side} {_number(bar.wanted, bar.unit)}", *(_kept(bar, one.get(bar)) for one in told)]
        for bar in BARS
        if any(bar in one for one in told)
    ]
    return table(["promise", "wanted", *map(machine_of, others.values())], rows)


def _kept(bar: Bar, value: float | None) -> str:
    if value is None:
        return ""
    return _number(value, bar.unit) if bar.met(value) else f"**{_number(value, bar.unit)}**"


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".strip() if unit else f"{value:.4f}"
