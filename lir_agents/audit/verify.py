"""Recomputes the whole log from its rows and says what is not as it should be.

Without a checkpoint this finds rows that do not fit together: an edited event, a gap, a changed node, column
or erasable value. Somebody who rewrites rows *and* recomputes the tree fits everything together again; only a
checkpoint that was kept elsewhere tells.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any, Final, Literal

from lir_agents.audit.canonical import opens, speaks_of
from lir_agents.audit.events import commitments, utc
from lir_agents.audit.merkle import extend, leaf_hash, node_count, root_of_frontier
from lir_agents.errors import IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from lir_agents.audit.checkpoint import Checkpoint

__all__ = ["Problem", "VerifyReport", "verify_rows"]

ProblemCode = Literal[
    "edited", "missing", "node", "column", "clock", "erasable", "signature", "foreign", "cut", "rewritten"
]
MAX_PROBLEMS: Final = 100
_BEFORE: Final = {"ingest", "version", "erasure"}
"""Kinds of event that name the epoch which they are about to begin."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    `code` is one of: edited (a leaf is not what was hashed), missing (a gap), node (a stored hash differs),
    column (the index beside a leaf contradicts it), clock (time goes backwards), erasable (a value does not
    match its commitment, or the document that it speaks of its key), signature, foreign (a checkpoint of another
    log), cut (fewer events than the checkpoint saw), rewritten (other events than the checkpoint saw).
    """

    code: ProblemCode
    detail: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        size: Events in the log.
        root: Recomputed from the rows, in hex.
        erased: How many values were erased.
        checkpoint_size: How many events the checkpoint saw.
        problems: What is wrong.
        index_epoch: The latest epoch that the index had certainly reached, by what the events tell.
    """

    size: int
    root: str
    erased: int
    checkpoint_size: int | None
    problems: tuple[Problem, ...]
    index_epoch: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def raise_if_broken(self) -> None:
        """Raises IntegrityError that names the first problem, if there is one."""
        if self.problems:
            first, more = self.problems[0], len(self.problems) - 1
            raise IntegrityError(
                f"audit: verify: {first.detail}" + (f" (and {more} more problems)." if more else "."),
                remedy="Compare with a backup that matches an earlier checkpoint.",
            )


@dataclass(slots=True)
class _Walk:
    checkpoint_size: int | None
    size: int = 0
    erased: int = 0
    time: str = ""
    index_epoch: int = 0
    frontier: list[bytes] = field(default_factory=list)
    root_then: bytes | None = None
    problems: list[Problem] = field(default_factory=list)

    def report(self, code: ProblemCode, detail: str, position: int | None = None) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, detail, position))

    def mark(self) -> None:
        """Remembers the root as it was when the checkpoint was signed."""
        if self.size == self.checkpoint_size:
            self.root_then = root_of_frontier(self.frontier)


def verify_rows(
    database: sqlite3.Connection,
    origin: str,
    checkpoint: Checkpoint | None = None,
    public_key: Ed25519PublicKey | None = None,
) -> VerifyReport:
    """Walks all rows once, in one consistent read."""
    # An edited row may hold anything; bytes that are no UTF-8 must reach the hash as they are.
    database.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    walk = _Walk(checkpoint.size if checkpoint else None)
    walk.mark()
    leaves = database.execute("SELECT position, body FROM leaf ORDER BY position")
    events = database.execute("SELECT * FROM event ORDER BY position")
    nodes = database.execute("SELECT position, hash FROM node ORDER BY position")
    parts = groupby(database.execute("SELECT * FROM erasable ORDER BY position, part"), key=lambda row: row[0])
    held = next(parts, None)
    for leaf, event in zip_longest(leaves, events):
        if leaf is None or event is None or not leaf[0] == event[0] == walk.size:
            walk.report("missing", f"event {walk.size} is missing", walk.size)
            break
        content = _check_leaf(walk, leaf[1], event, nodes)
        own: list[Any] = []
        if held is not None and held[0] == walk.size:
            own, held = list(held[1]), next(parts, None)
        _check_erasable(walk, content, own)
        walk.size += 1
        walk.mark()
    if not walk.problems and (held is not None or nodes.fetchone() is not None):
        walk.report("missing", f"event {walk.size} is missing, and something of it is left", walk.size)
    if checkpoint is not None:
        _check_against(walk, origin, checkpoint, public_key)
    root = root_of_frontier(walk.frontier).hex()
    return VerifyReport(walk.size, root, walk.erased, walk.checkpoint_size, tuple(walk.problems), walk.index_epoch)


def _check_leaf(walk: _Walk, body: Any, event: Sequence[Any], nodes: sqlite3.Cursor) -> dict[str, Any]:
    """Checks a leaf, its index row and the nodes that it completes; returns the leaf's content."""
    at, text = walk.size, body if isinstance(body, str) else repr(body)
    digest = leaf_hash(text.encode("utf-8", "surrogateescape"))
    computed = extend(walk.frontier, at, digest)
    stored = nodes.fetchmany(len(computed))
    if event[1] != digest[:16] or not stored or stored[0][1] != digest:
        walk.report("edited", f"event {at} is not what was recorded", at)
    elif not walk.problems and stored != list(enumerate(computed, node_count(at))):
        walk.report("node", f"the tree above event {at} is not what its leaves give", at)
    try:
        content = dict(json.loads(text))
        expected = (content["kind"], content["principal"], content["tenant"], content["time"])
        if (*event[2:5], utc(event[5])) != expected:
            walk.report("column", f"the index of event {at} contradicts its leaf", at)
        if content["time"] < walk.time:
            walk.report("clock", f"event {at} is earlier than the event before", at)
        walk.time = content["time"]
        walk.index_epoch = max(walk.index_epoch, _reached(content))
    except (ValueError, KeyError, TypeError, OverflowError):
        walk.report("edited", f"event {at} cannot be read", at)
        return {}
    return content


def _reached(content: Mapping[str, Any]) -> int:
    """The epoch that the index had certainly reached. What changes it is recorded before it does: a change that a
    crash cut off is told of as well."""
    epoch = content["payload"].get("index_epoch") if isinstance(content["payload"], dict) else None
    return epoch - (content["kind"] in _BEFORE) if isinstance(epoch, int) else 0


def _check_erasable(walk: _Walk, content: Mapping[str, Any], rows: Sequence[Any]) -> None:
    at, committed = walk.size, dict(commitments(content))
    walk.erased += len(committed) - len(rows)
    for _, number, key, subject, value in rows:
        if number not in committed:
            walk.report("erasable", f"event {at} holds a value that nothing commits to", at)
        elif value is not None and not opens(key, value, committed[number]):
            walk.report("erasable", f"an erasable value of event {at} is not what was committed to", at)
        elif not speaks_of(key, subject):
            # Erasing the document that it speaks of would not find it any more.
            walk.report("erasable", f"an erasable value of event {at} is put down to another document", at)


def _check_against(walk: _Walk, origin: str, checkpoint: Checkpoint, key: Ed25519PublicKey | None) -> None:
    if key is None or not checkpoint.signed_by(key):
        walk.report("signature", "the checkpoint is not signed by this key")
    if checkpoint.origin != origin:
        walk.report("foreign", f"the checkpoint is of the log {checkpoint.origin}, this is {origin}")
    if walk.root_then is None:
        walk.report("cut", f"the log has {walk.size} events, the checkpoint saw {checkpoint.size}")
    elif walk.root_then != checkpoint.root:
        walk.report("rewritten", f"the first {checkpoint.size} events are not those that the checkpoint saw")
