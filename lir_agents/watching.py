"""What an index holds and how its searches went, read beside the process that owns it, or after it has ended.

Nothing is locked and nothing is changed: the catalog and the audit log are opened read-only, which shows every
commit of a process that is running now. Milliseconds come from the log, where each search leaves those of its
stages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lir_agents.audit.events import RecordedEvent
from lir_agents.audit.log import AuditLog
from lir_agents.codes import Bits, TokenCodec
from lir_agents.errors import InputError, StoreError
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.records import Generation
from lir_agents.stores.tokens import LmdbTokens

__all__ = ["holdings", "searches"]

_PERCENTILES = (50, 95, 99)
_SIDE_BY_SIDE = ("memory", "tools")


def holdings(path: str | Path) -> dict[str, Any]:
    """Counts, sizes in bytes and what the index was made with; as `LateInteractionIndex.stats`.

    Raises:
        InputError: There is no index.
        IntegrityError: A store is damaged; `lir doctor` says more.
    """
    layout = IndexLayout(Path(path))
    layout.prepare(create=False)
    with Catalog.open(layout.catalog, create=False, read_only=True) as catalog:
        generation, counts, bits = catalog.generation(), asdict(catalog.counts()), catalog.token_bits()
        held = {
            "path": str(layout.path),
            "access": catalog.get_meta("access") or "",
            "epoch": catalog.epoch,
            **counts,
        }
    held |= {"encoder": generation.name, "fingerprint": generation.fingerprint} if generation else {}
    held["token_bytes"] = _token_bytes(layout, generation, bits) if generation else 0
    held["disk_bytes"] = sum(_size(file) for file in layout.path.rglob("*"))
    with AuditLog.open(layout.audit, read_only=True) as log:
        return held | {"audit_events": log.size}


def searches(path: str | Path, *, last: int = 1000) -> dict[str, Any]:
    """How the last searches went: milliseconds by stage with their tails, what was left out, what was refused.

    Args:
        path: The index directory.
        last: So many searches are looked at, the newest.

    Returns:
        `searches` (how many were looked at), `since` and `until` (UTC), `refused` (requests that the policy refused
        meanwhile), `fallbacks` (by stage and status), and by stage and for the whole `p50`, `p95`, `p99` in
        milliseconds with the `count` of searches in which the stage ran. The whole ends as the search is recorded.

    Raises:
        InputError: There is no index; or `last` is below 1.
    """
    layout = IndexLayout(Path(path))
    layout.prepare(create=False)
    if last < 1:
        raise InputError(f"is {last}", field="last", remedy="Use 1 or more.")
    with AuditLog.open(layout.audit, read_only=True) as log:
        events = log.newest("retrieval", last)
        decisions = log.newest("decision", last)
    covered = [event.payload["coverage"]["stages"] for event in events]
    since = events[0].position if events else 0
    return {
        "searches": len(events),
        "since": events[0].time if events else "",
        "until": events[-1].time if events else "",
        "refused": _refused(decisions, since),
        "fallbacks": _fallbacks(covered),
        **_latency(covered),
    }


def _refused(decisions: Sequence[RecordedEvent], since: int) -> int:
    return sum(event.position > since and not event.payload["decision"]["allowed"] for event in decisions)


def _fallbacks(covered: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    missed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for stages in covered:
        for name, stage in stages.items():
            if stage["status"] in ("timed_out", "failed"):
                missed[name][stage["status"]] += 1
    return {name: dict(counts) for name, counts in missed.items()}


def _latency(covered: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    taken: defaultdict[str, list[float]] = defaultdict(list)
    whole: list[float] = []
    for stages in covered:
        each = {name: float(stage["elapsed_ms"]) for name, stage in stages.items()}
        aside = [each.get(name, 0.0) for name in _SIDE_BY_SIDE]
        whole.append(sum(each.values()) - min(aside))
        for name, stage in stages.items():
            if stage["status"] != "skipped":
                taken[name].append(each[name])
    return {"whole_ms": _tails(whole), "stages_ms": {name: _tails(values) for name, values in taken.items()}}


def _tails(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    found = np.percentile(values, _PERCENTILES).tolist()
    named = {f"p{at}": round(value, 3) for at, value in zip(_PERCENTILES, found, strict=True)}
    return {**named, "count": len(values)}


def _token_bytes(layout: IndexLayout, generation: Generation, bits: Bits) -> int:
    codec = TokenCodec(generation.token_dim, bits)
    try:
        with closing(LmdbTokens.open(layout.tokens, codec, generation.dense_dim, read_only=True)) as tokens:
            return tokens.size_bytes()
    except StoreError:  # it is missing, and is made again by the next opening
        return 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:  # compacted away by its owner meanwhile
        return 0
