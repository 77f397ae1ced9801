"""What the measurements share: where things lie, indexes that are built once, and results with their machine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import lir_agents
from lir_agents import LateInteractionIndex, SearchResult
from lir_agents.evaluation import Dataset, EvalQuery, Ranking, System
from lir_agents.evaluation.machine import describe_machine
from lir_agents.graph.build import build_graph
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.rooms import Rooms

DEPTH = 100
"""Passages that a measured system answers with."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the benchmarks.

    Attributes:
        data: Folder of collections in the evaluation layout.
        indexes: Where indexes are built once and reused, one directory a collection.
        results: Where result files go.
        limit: First queries (or documents, where documents are measured) only; None: all.
        sets: Collections to keep to; None: those of each measurement.
        resume: Whether results of the same source code and limit stand.
    """

    data: Path
    indexes: Path
    results: Path
    limit: int | None = None
    sets: tuple[str, ...] | None = None
    resume: bool = False

    def chosen(self, names: tuple[str, ...]) -> list[str]:
        """Of these collections, the ones asked for that are there."""
        wanted = [name for name in names if self.sets is None or name in self.sets]
        present = [name for name in wanted if (self.data / name / "corpus.jsonl").is_file()]
        for name in wanted:
            if name not in present:
                say(f"{name}: not under {self.data}, left out")
        return present

    def dataset(self, name: str) -> Dataset:
        """The collection with its first `limit` queries."""
        return Dataset.load(self.data / name).limit(self.limit)

    @contextmanager
    def index(self, dataset: Dataset) -> Iterator[LateInteractionIndex]:
        """The collection's index, complete."""
        path = self.indexes / f"{dataset.path.name}.lir"
        path.parent.mkdir(parents=True, exist_ok=True)
        with LateInteractionIndex.open(
            path, access="acl" if dataset.governed else "open", bindings=dataset.bindings
        ) as index:
            fill(index, dataset)
            yield index

    def standing(self, name: str) -> dict[str, Any] | None:
        """The result file of an earlier run, where it may stand."""
        path = self.results / f"{name}.json"
        if not self.resume or not path.is_file():
            return None
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("source_sha256") != source_sha256() or kept.get("limit") != self.limit:
            return None
        say(f"{name}: stands")
        return kept

    def write(self, name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one result file with the machine and the source it comes from."""
        path = self.results / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = describe_machine() | {"load_average": load()}
        about = {"limit": self.limit, "source_sha256": source_sha256(), "machine": machine}
        result = {**rounded(dict(measured)), **about}
        path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        say(f"{name}: written")
        return result


def load() -> float:
    """Processes that wanted a core within the last minute, these measurements among them; 0 where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def fill(index: LateInteractionIndex, dataset: Dataset) -> None:
    """Adds the corpus unless the index holds it already."""
    with_text = sum(1 for document in dataset.documents() if document.text.strip())
    if index.stats()["documents"] >= with_text:
        return
    say(f"{dataset.name}: indexing {with_text:,} documents")
    spoken = [time.monotonic()]

    def progress(documents: int, passages: int) -> None:
        if time.monotonic() - spoken[0] > 30:
            spoken[0] = time.monotonic()
            say(f"{dataset.name}: {documents:,} documents, {passages:,} passages")

    index.add(dataset.documents(), progress=progress)


@cache
def source_sha256() -> str:
    """One digest over the package's source files, compiled ones too: equal digests, equal code."""
    digest = hashlib.sha256()
    root = Path(lir_agents.__file__).parent
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def rounded(value: Any, digits: int = 5) -> Any:
    """Floats to so many digits after the point, everywhere in JSON data."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Altered:
    """An open index with a room exchanged: what `build_graph` takes, so that a variant runs the product's graph."""

    rooms: Rooms


def altered(index: LateInteractionIndex, **rooms: Any) -> Altered:
    """The index with these rooms instead of its own; it stays as it is itself."""
    return Altered(replace(index.rooms, **rooms))


def searcher(index: Altered) -> Any:
    """`search(query, **given)` over an altered index, through the product's own graph."""
    graph: Any = build_graph(index).compile(checkpointer=False)

    def search(query: str, **given: Any) -> SearchResult:
        context = RetrievalContext(principal=given.pop("principal", None))
        result: SearchResult = graph.invoke({"query": query, **given}, context=context)["result"]
        return result

    return search


def as_system(search: Any, *, memory: bool = True, tools: bool = True, rewrite: bool = False) -> System:
    """A search function as a system of the evaluation; `rewrite` asks a person's stand-alone wording instead."""

    def system(query: EvalQuery) -> Ranking:
        result = search(
            (query.rewrite or query.text) if rewrite else query.text,
            k=DEPTH,
            principal=query.principal,
            history=query.history if memory and not rewrite else (),
            tool_signals=query.tool_signals if tools else (),
            filter=query.filter,
        )
        return Ranking(tuple(dict.fromkeys(hit.document_id for hit in result)), passages=len(result))

    return system
