"""Access on real collections: what may be read is found, and what may not shows nowhere.

A question that must be denied is asked twice: with its forbidden documents in the index and with them taken out.
Whatever a caller can see has to be the same to the last bit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.bench import DEPTH, Bench, say
from benchmarks.quality import trimmed
from lir_agents import Document, LateInteractionIndex, Principal
from lir_agents.evaluation import SYSTEMS, Dataset, EvalQuery, Situation, bind_systems, evaluate
from lir_agents.tenants import TenantIndexes

DENYING = ("inazuma_acl",)
TENANTS = ("rag_multi_corpus",)


def run(bench: Bench) -> None:
    """One file a collection."""
    for name in bench.chosen(DENYING):
        if bench.standing(f"access/{name}") is None:
            bench.write(f"access/{name}", _denials(bench, name))
    for name in bench.chosen(TENANTS):
        if bench.standing(f"access/{name}") is None:
            bench.write(f"access/{name}", _tenants(bench, name))


# ---------------------------------------------------------------- documents that must not show


def _denials(bench: Bench, name: str) -> dict[str, Any]:
    """Quality over what is readable, and every trace of what is not."""
    dataset = bench.dataset(name)
    denied = [query for query in dataset.queries if query.expect == "deny"]
    say(f"{name}: {len(dataset.queries)} queries, {len(denied)} to be denied")
    with bench.index(dataset) as index:
        experiment = evaluate(
            dataset, bind_systems(index, SYSTEMS, situation=Situation()), passages=index.stats()["live_passages"]
        )
        path = index.path
    forbidden = {target for query in denied for target in query.forbidden_target}
    kept = {document.id: document for document in dataset.documents() if document.id in forbidden}
    with _copy(path) as copied:
        traces = {query.id: _traces(copied, query, kept) for query in denied}
    return {
        **trimmed(experiment),
        "denied": len(denied),
        "forbidden": len(forbidden),
        "leaks": {system: result.leaks for system, result in experiment.systems.items()},
        "traces": {query: found for query, found in traces.items() if found},
    }


@contextmanager
def _copy(path: Path) -> Iterator[LateInteractionIndex]:
    """An index that documents can be taken out of and put back into."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shutil.copytree(path, Path(folder) / path.name)
        with LateInteractionIndex.open(Path(folder) / path.name, create=False) as index:
            yield index


def _traces(index: LateInteractionIndex, query: EvalQuery, kept: Mapping[str | None, Document]) -> list[str]:
    """How the forbidden documents of a query show to who asks: nothing, where nothing does."""
    forbidden = query.forbidden_target
    who = query.principal
    told = {change.document_id for change in index.changes(principal=who)}
    found = [f"changes: {target}" for target in forbidden if target in told]
    found += [f"get: {target}" for target in forbidden if index.get(target, principal=who)]
    found += [f"versions: {target}" for target in forbidden if index.versions(target, principal=who)]
    before = _seen(index, query)
    found += [f"{part}: {target}" for part in _NAMING for target in forbidden if target in before[part]]
    index.delete(forbidden)
    after = _seen(index, query)
    index.add([kept[target] for target in forbidden])  # what was encoded once is not encoded again
    return found + [f"{part} differ without them" for part in before if before[part] != after[part]]


_NAMING = ("hits", "candidates")


def _seen(index: LateInteractionIndex, query: EvalQuery) -> dict[str, Any]:
    """Everything of an answer that does not depend on the clock."""
    result = index.search(query.text, k=DEPTH, principal=query.principal, filter=query.filter)
    table = index.candidates(query.text, principal=query.principal, filter=query.filter)
    recorded = index.audit.get(result.event_id).payload
    return {
        "hits": [hit.document_id for hit in result],
        "passages": [hit.passage_id for hit in result],
        "scores": [(hit.score, dict(hit.breakdown)) for hit in result],
        "coverage": {name: (stage.status, stage.reason) for name, stage in result.coverage.stages.items()},
        "counts": (len(result), recorded["candidates"], len(table.rows)),
        "candidates": table.document_ids,
        "signals": [table.dense.tolist(), table.lexical.tolist(), table.maxsim.tolist()],
    }


# ---------------------------------------------------------------- tenants


def _tenants(bench: Bench, name: str) -> dict[str, Any]:
    """Every question in its tenant's index, cold and warm, with threads of equal names: whose words come back."""
    dataset = bench.dataset(name)
    owner = {document.id: _tenant(document.metadata) for document in dataset.documents()}
    questions = [(_tenant(query.metadata or {}), query) for query in dataset.queries]
    say(f"{name}: {len(questions)} queries, {len(set(owner.values()))} tenants")
    foreign: Counter[str] = Counter()
    with TenantIndexes.open(bench.indexes / f"{name}.tenants", access="acl", max_open=2) as tenants:
        _fill(tenants, dataset, owner)
        for state in ("cold", "warm"):
            for tenant, query in _interleaved(questions) if state == "warm" else questions:
                who = Principal(f"{tenant}:user", groups=query.principals or (), tenant=tenant)
                result = tenants.search(query.text, principal=who, k=DEPTH, thread_id="t1")
                foreign[f"results, {state}"] += any(owner[hit.document_id] != tenant for hit in result)
                with tenants.of(who) as index:
                    said = index.memory.recall(who, "t1", set)
                    theirs = {one.text for other, one in questions if other != tenant}
                    ours = {one.text for other, one in questions if other == tenant}
                    foreign[f"memory, {state}"] += any(entry.text in theirs - ours for entry in said)
                    named = [name for name in owner if owner[name] != tenant][:50]
                    foreign[f"get, {state}"] += any(index.get(name, principal=who) for name in named)
    return {
        "dataset": dataset.name,
        "tenants": len(set(owner.values())),
        "queries": len(questions),
        "documents": len(owner),
        "leaks": dict(foreign),
    }


def _tenant(metadata: Mapping[str, Any]) -> str:
    return str(metadata["tenant"])


def _fill(tenants: TenantIndexes, dataset: Dataset, owner: Mapping[str | None, str]) -> None:
    corpora: dict[str, list[Document]] = defaultdict(list)
    for document in dataset.documents():
        corpora[owner[document.id]].append(document)
    for tenant, documents in corpora.items():
        tenants.add(documents, tenant=tenant)


def _interleaved(questions: Sequence[tuple[str, EvalQuery]]) -> list[tuple[str, EvalQuery]]:
    """The same questions, so that each is asked by another tenant than the one before, as far as it goes."""
    by_tenant: dict[str, list[tuple[str, EvalQuery]]] = defaultdict(list)
    for question in questions:
        by_tenant[question[0]].append(question)
    turns = zip_longest(*by_tenant.values())
    return [question for turn in turns for question in turn if question is not None]
