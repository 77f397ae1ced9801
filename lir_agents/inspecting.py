"""What is wrong with an index directory: the truth first, then whether each derived store says the same.

Whoever calls holds the lock of the directory. Nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.audit.log import AuditLog
from lir_agents.codes import Bits, TokenCodec
from lir_agents.encoding.asking import encoded_documents
from lir_agents.encoding.base import Encoder
from lir_agents.errors import IntegrityError
from lir_agents.ingest.anew import prepared_anew
from lir_agents.ingest.compose import Composer
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.database import file_problems
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.lexical import contents_of
from lir_agents.stores.probe import Probe, probe

__all__ = ["Finding", "Restated", "derived_findings", "older_than_told", "restate", "truth_findings"]

Store = Literal["catalog", "audit", "memory", "tokens", "lexical", "vectors"]
Mend = Literal["rebuild", "rows", "forget", ""]

_CHUNK: Final = 1024
_SAMPLE: Final = 16
_ALIKE: Final = 0.9
"""Mean cosine of a passage's token codes, stored and made again: another backend keeps it above .98, another model
or another text is far below."""
_NEXT: Final = {
    "catalog": "The catalog is the truth and can be made from nothing else: restore the directory from a backup, "
    "or ingest again into a new one.",
    "audit": "`lir audit verify` says which events; restore the log from a backup that matches a checkpoint.",
    "memory": "What conversations said can be made from nothing else: restore memory.sqlite from a backup, or move "
    "it away, and conversations begin anew.",
}
_DERIVED: Final = "`lir doctor --repair` makes it again from the catalog."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an index directory.

    Attributes:
        store: "catalog", "audit", "memory", "tokens", "lexical" or "vectors".
        problem: What, in words.
        mend: "rebuild" (the store is dropped and made again), "rows" (these passages are), "forget" (they are
            removed, from the bytes too), or "" for what can be made from nothing else.
        rows: How many passages it is about; 0 where that cannot be said.
        remedy: The next step.
    """

    store: Store
    problem: str
    mend: Mend
    rows: int = 0
    remedy: str = _DERIVED

    def __str__(self) -> str:
        return f"{self.store}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Restated:
    """What the derived stores should hold, as the catalog says.

    Attributes:
        committed: int64, rows of every version; tokens and words of all of them are kept.
        live: int64, rows of current versions: those that Chroma holds.
        access_class: int32 by row.
        contents: uint64 by row, what the lexical index should hold.
        sample: Text as it is encoded, by row, of a few passages.
        token_bits: Bits of each coordinate of a stored token vector.
        broken: int64, rows whose text is not what was encoded: the catalog is damaged.
    """

    committed: Rows
    live: Rows
    access_class: NDArray[np.int32]
    contents: NDArray[np.uint64]
    token_bits: Bits
    sample: dict[int, str] = field(default_factory=dict)
    broken: Rows = field(default_factory=lambda: np.empty(0, np.int64))


def truth_findings(layout: IndexLayout) -> Iterator[Finding]:
    """What is wrong with what can be made from nothing else: catalog, audit log, memory."""
    origin: str | None = None
    epoch: int | None = None
    try:
        with Catalog.open(layout.catalog, create=False, read_only=True) as catalog:
            problems, origin, epoch = catalog.check(), catalog.get_meta("audit"), catalog.epoch
    except IntegrityError as error:
        problems = [error.problem]
    in_the_log, told = _audit_problems(layout, origin)
    if epoch is not None:
        problems = older_than_told(epoch, told) + problems
    yield from (_lost("catalog", problem) for problem in problems[:5])
    yield from (_lost("audit", problem) for problem in in_the_log[:5])
    if layout.memory.exists():
        yield from (_lost("memory", problem) for problem in file_problems(layout.memory))


def older_than_told(epoch: int, told: int) -> list[str]:
    """What is wrong with a catalog at `epoch` beside a log that tells of `told`: what was deleted since, or whom a
    document was taken from, is as it was before.

    A log that is as old as the catalog says nothing: that is what signed checkpoints are for.
    """
    if told <= epoch:
        return []
    return [f"it is at epoch {epoch}, and the audit log tells of epoch {told}: this is an older copy of it"]


def _audit_problems(layout: IndexLayout, origin: str | None) -> tuple[list[str], int]:
    """What is wrong with the log, and the epoch that it tells of; 0 where it cannot be read."""
    if not layout.audit.exists():
        return [] if origin is None else [f"{layout.audit.name} is gone"], 0
    if problems := file_problems(layout.audit):
        return problems, 0
    try:
        with AuditLog.open(layout.audit, read_only=True) as log:
            if origin not in (None, log.origin):
                return [f"{layout.audit.name} is the log of another index"], 0
            report = log.verify()
            return [problem.detail for problem in report.problems], report.index_epoch
    except IntegrityError as error:
        return [error.problem], 0


def restate(catalog: Catalog, composer: Composer, progress: Callable[[int, int], None] | None = None) -> Restated:
    """Reads every text of the catalog, and says what the derived stores should hold."""
    snapshot = catalog.snapshot()
    committed = np.flatnonzero(snapshot.committed).astype(np.int64)
    contents = np.zeros(len(snapshot.committed), np.uint64)
    wanted = set(committed[:: max(1, len(committed) // _SAMPLE)].tolist())
    sample: dict[int, str] = {}
    broken: list[int] = []
    for start in range(0, len(committed), _CHUNK):
        rows = committed[start : start + _CHUNK]
        pairs = list(prepared_anew(catalog, composer, rows))
        known = catalog.reusable([prepared.encoding_sha256 for _, prepared in pairs])
        contents[[passage.row for passage, _ in pairs]] = contents_of(
            prepared.lexical_text for _, prepared in pairs
        )
        broken += [passage.row for passage, prepared in pairs if prepared.encoding_sha256 not in known]
        sample |= {passage.row: prepared.composed.text for passage, prepared in pairs if passage.row in wanted}
        if progress:
            progress(min(len(committed), start + _CHUNK), len(committed))
    live = np.flatnonzero(snapshot.live).astype(np.int64)
    bits = catalog.token_bits()
    return Restated(committed, live, snapshot.access_class, contents, bits, sample, np.array(broken, np.int64))


def derived_findings(layout: IndexLayout, encoder: Encoder, wanted: Restated) -> tuple[list[Finding], Rows]:
    """What is wrong with the derived stores.

    Returns:
        The findings, and the rows whose token vectors are damaged while their store is sound.
    """
    codec = TokenCodec(encoder.token_dim, wanted.token_bits)
    widths = {"token_dim": codec.dim, "token_bits": codec.bits, "dense_dim": encoder.dense_dim}
    count = len(wanted.committed)
    asked: dict[str, Any] = {"path": str(layout.tokens), "sample": [*wanted.sample], **widths}
    tokens = _probed("tokens", layout, asked, count)
    found = _tokens_findings(tokens, encoder, wanted)
    sound = not any(finding.mend == "rebuild" for finding in found)
    lexical = _probed("lexical", layout, {"path": str(layout.lexical)}, count)
    found += _lexical_findings(lexical, wanted)
    compared = str(layout.tokens) if sound and not len(tokens.damaged) else None
    asked = {"path": str(layout.vectors), "tokens": compared, **widths}
    found += _vectors_findings(_probed("vectors", layout, asked, len(wanted.live)), wanted)
    return found, tokens.damaged if sound else np.empty(0, np.int64)


def _probed(store: Any, layout: IndexLayout, asked: dict[str, Any], rows: int) -> Probe:
    directory = {"tokens": layout.tokens, "lexical": layout.lexical, "vectors": layout.vectors}[store]
    if not directory.is_dir() or not any(directory.iterdir()):
        return Probe("it is missing")
    return probe(store, asked, rows=rows)


def _tokens_findings(seen: Probe, encoder: Encoder, wanted: Restated) -> list[Finding]:
    if seen.error:
        return [_rebuild("tokens", seen.error, len(wanted.committed))]
    if len(np.setdiff1d(seen.damaged, wanted.committed)) or _foreign(seen, encoder, wanted):
        why = "its vectors are not those of the texts in the catalog, or of another encoder"
        return [_rebuild("tokens", why, len(wanted.committed))]
    found = _differences(
        "tokens", np.setdiff1d(seen.rows, seen.damaged), np.setdiff1d(wanted.committed, seen.damaged)
    )
    if count := len(seen.damaged):
        found.append(Finding("tokens", f"the token vectors of {count:,} passages are damaged", "rows", count))
    return found


def _foreign(seen: Probe, encoder: Encoder, wanted: Restated) -> bool:
    """Whether vectors of the sample are others than the encoder's of the same texts, both as they are stored."""
    codec = TokenCodec(encoder.token_dim, wanted.token_bits)
    rows = seen.arrays["sample"].tolist()
    offsets = seen.arrays["offsets"]
    for at, encoding in encoded_documents(encoder, [wanted.sample[row] for row in rows]):
        part = slice(offsets[at], offsets[at + 1])
        stored, anew = codec.unpack(seen.arrays["data"][part]), codec.unpack(codec.encode(encoding.tokens))
        if stored.shape != anew.shape:
            return True
        lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(anew, axis=1)
        cosines = np.einsum("ij,ij->i", stored, anew) / np.maximum(lengths, 1e-12)
        if not cosines.mean() >= _ALIKE:
            return True
    return False


def _lexical_findings(seen: Probe, wanted: Restated) -> list[Finding]:
    if seen.error:
        return [_rebuild("lexical", seen.error, len(wanted.committed))]
    wrong = len(seen.damaged)
    if not wrong:
        both = np.intersect1d(seen.rows, wanted.committed)
        wrong = int(np.count_nonzero(seen.arrays["contents"][both] != wanted.contents[both]))
    if wrong:
        return [_rebuild("lexical", f"{wrong:,} passages are not listed under their words", wrong)]
    return _differences("lexical", seen.rows, wanted.committed)


def _vectors_findings(seen: Probe, wanted: Restated) -> list[Finding]:
    if seen.error:
        return [_rebuild("vectors", seen.error, len(wanted.live))]
    both, at, _ = np.intersect1d(seen.rows, wanted.live, return_indices=True)
    misplaced = both[seen.arrays["access_classes"][at] != wanted.access_class[both]]
    if wrong := len(np.union1d(np.intersect1d(seen.damaged, both), misplaced)):
        return [_rebuild("vectors", f"{wrong:,} passages have another vector or access class", wrong)]
    return _differences("vectors", seen.rows, wanted.live)


def _differences(store: Store, held: Rows, wanted: Rows) -> list[Finding]:
    found = []
    if missing := len(np.setdiff1d(wanted, held)):
        found.append(Finding(store, f"{missing:,} passages are missing", "rows", missing))
    if unknown := len(np.setdiff1d(held, wanted)):
        problem = f"it holds {unknown:,} passages that the catalog does not give it"
        found.append(Finding(store, problem, "forget", unknown))
    return found


def _rebuild(store: Store, problem: str, rows: int) -> Finding:
    return Finding(store, problem, "rebuild", rows)


def _lost(store: Store, problem: str) -> Finding:
    return Finding(store, problem, "", 0, _NEXT[store])
