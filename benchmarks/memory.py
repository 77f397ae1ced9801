"""What the conversation and its tools add: memory, topic shifts, tool signals, long conversations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench, as_system, say
from benchmarks.quality import measure, trimmed
from lir_agents import LateInteractionIndex, ToolSignal, Turn
from lir_agents.evaluation import Dataset, EvalQuery, Experiment, Situation, System, evaluate

CONVERSATIONS = ("mtrag_clapnq", "mtrag_cloud", "mtrag_fiqa", "mtrag_govt")
SCOPED = ("locomo", "beam_100k")
VERSIONED = ("nodejs_versions",)
_SEED = 20_250_101
_DRAWS = 8
_WRONG_CONFIDENCE = 0.2


def run(bench: Bench) -> None:
    """Conversations, spliced conversations, scoped conversations, tools: one file a collection each."""
    spliced = _foreign_histories(bench)
    for name in bench.chosen(CONVERSATIONS):
        if bench.standing(f"memory/{name}") is None:
            bench.write(f"memory/{name}", _conversations(bench, name, spliced[name]))
    for name in bench.chosen(SCOPED):
        if bench.standing(f"memory/{name}") is None:
            bench.write(f"memory/{name}", measure(bench, name, situation=Situation()))
    for name in bench.chosen(VERSIONED):
        if bench.standing(f"memory/{name}") is None:
            bench.write(f"memory/{name}", _tools(bench, name))


# ---------------------------------------------------------------- conversations


def _conversations(bench: Bench, name: str, foreign: Sequence[tuple[Turn, ...]]) -> dict[str, Any]:
    """Memory on, off, a person's rewrite instead; first turns alone, and after somebody else's conversation."""
    dataset = bench.dataset(name)
    say(f"{name}: {len(dataset.queries)} turns, memory on, off, rewritten, spliced")
    with bench.index(dataset) as index:
        systems = {
            "off": as_system(index.search, memory=False),
            "on": as_system(index.search),
            "rewrite": as_system(index.search, rewrite=True),
        }
        experiment = evaluate(dataset, systems, switches={"memory": "see systems"})
        first = [query for query in dataset.queries if not query.history]
        return {
            **trimmed(experiment),
            "comparisons": _compared(experiment, (("on", "off"), ("on", "rewrite"))),
            "first_turns": {"queries": len(first), "differing": _differing(index, first)},
            "spliced": _spliced(index, dataset, foreign),
        }


def _compared(experiment: Experiment, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    compared = {}
    for one, other in pairs:
        found = experiment.compare(one, other)
        compared[f"{one} - {other}"] = {"difference": found.difference, "p_value": found.p_value}
    return compared


def _differing(index: LateInteractionIndex, queries: Sequence[EvalQuery]) -> int:
    """First turns whose ids or scores in a thread of their own differ from those without any memory."""

    def answer(query: EvalQuery, **given: Any) -> list[tuple[str, float]]:
        found = index.search(query.text, k=10, filter=query.filter, remember=False, **given)
        return [(hit.passage_id, hit.score) for hit in found]

    return sum(answer(query) != answer(query, thread_id=f"bench {query.id}") for query in queries)


def _foreign_histories(bench: Bench) -> dict[str, list[tuple[Turn, ...]]]:
    """For each collection the longest history of every conversation of the others."""
    longest: dict[str, dict[str, tuple[Turn, ...]]] = {}
    for name in (name for name in CONVERSATIONS if (bench.data / name / "corpus.jsonl").is_file()):
        kept = longest.setdefault(name, {})
        for query in Dataset.load(bench.data / name).queries:
            conversation = str((query.metadata or {}).get("conversation_id", query.id))
            if len(query.history) > len(kept.get(conversation, ())):
                kept[conversation] = query.history
    return {
        name: [kept[each] for other, kept in longest.items() if other != name for each in sorted(kept)]
        for name in CONVERSATIONS
    }


def _spliced(
    index: LateInteractionIndex, dataset: Dataset, foreign: Sequence[tuple[Turn, ...]]
) -> dict[str, Any] | None:
    """Stand-alone turns right after a conversation from another collection: what memory costs at a topic shift.

    Two kinds of turns: the first ones of their conversations, as they were said, each after several conversations
    because there are few of them; and every turn in a person's stand-alone wording, which is what a user who
    changes the topic has to say.
    """
    if not foreign:
        return None
    draw = random.Random(_SEED)
    opening = [query for query in dataset.queries if not query.history]
    first = [
        replace(query, id=f"{query.id} {number}", history=draw.choice(foreign))
        for query in opening
        for number in range(_DRAWS)
    ]
    judged = {query.id: dataset.qrels.get(query.id.rsplit(" ", 1)[0], {}) for query in first}
    alone = [
        replace(query, text=query.rewrite or query.text, history=draw.choice(foreign)) for query in dataset.queries
    ]
    systems = {"off": as_system(index.search, memory=False), "on": as_system(index.search)}
    return {
        kind: _on_and_off(replace(dataset, queries=tuple(queries), qrels=qrels), systems)
        for kind, queries, qrels in (("first turns", first, judged), ("stand-alone turns", alone, dataset.qrels))
        if queries
    }


def _on_and_off(dataset: Dataset, systems: Mapping[str, System]) -> dict[str, Any]:
    experiment = evaluate(dataset, systems)
    found = experiment.compare("on", "off")
    means = {name: result.metrics["nDCG@10"] for name, result in experiment.systems.items()}
    return {"queries": found.queries, **means, "difference": found.difference, "p_value": found.p_value}


# ---------------------------------------------------------------- tools


def _tools(bench: Bench, name: str) -> dict[str, Any]:
    """A tool names the version that is meant: right, absent, or wrong and unsure of it."""
    dataset = bench.dataset(name)
    say(f"{name}: {len(dataset.queries)} queries, tools on, off, wrong")
    with bench.index(dataset) as index:
        wrong = _mistaken(dataset)
        right = as_system(index.search)
        systems: dict[str, System] = {
            "off": as_system(index.search, tools=False),
            "on": right,
            "wrong": lambda query: right(wrong[query.id]),
        }
        experiment = evaluate(dataset, systems, switches={"tools": "see systems"})
    pairs = (("on", "off"), ("wrong", "off"))
    return {
        **trimmed(experiment),
        "wrong_confidence": _WRONG_CONFIDENCE,
        "comparisons": _compared(experiment, pairs),
    }


def _mistaken(dataset: Dataset) -> dict[str, EvalQuery]:
    """Every query with its tools claiming another value of each bound field, at low confidence."""
    draw = random.Random(_SEED)
    fields = {(binding.tool, binding.field) for binding in dataset.bindings}
    said = [signal for query in dataset.queries for signal in query.tool_signals]
    claims = [(signal.tool, signal.output) for signal in said if isinstance(signal.output, Mapping)]
    values = {
        (tool, field): sorted({str(output[field]) for who, output in claims if who == tool and field in output})
        for tool, field in fields
    }

    def claim(signal: ToolSignal) -> ToolSignal:
        output = dict(signal.output) if isinstance(signal.output, Mapping) else {}
        for tool, field in fields:
            others = [value for value in values[tool, field] if value != str(output.get(field))]
            if tool == signal.tool and field in output and others:
                output[field] = draw.choice(others)
        return ToolSignal(signal.tool, output, confidence=_WRONG_CONFIDENCE)

    return {
        query.id: replace(query, tool_signals=tuple(claim(signal) for signal in query.tool_signals))
        for query in dataset.queries
    }
