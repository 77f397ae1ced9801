"""Finds what is wrong with an index directory, and mends what can be derived.

The catalog is the truth and the audit log its witness: where one of them is damaged nothing is changed, and the
findings say what the next step is. All else but memory is made again from the catalog: a store that cannot be
trusted is dropped whole, single passages are encoded again, what the catalog does not know is removed from the
bytes. What will be done is recorded before it is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from langgraph.store.memory import InMemoryStore

from lir_agents.arrays import Rows
from lir_agents.audit import payloads
from lir_agents.audit.log import AuditLog
from lir_agents.codes import TokenCodec
from lir_agents.config import Settings, load_settings
from lir_agents.encoding.base import Encoder
from lir_agents.errors import IntegrityError
from lir_agents.ingest.compose import Composer
from lir_agents.ingest.erasing import demand_erasure
from lir_agents.ingest.redact_base import Redactor
from lir_agents.ingest.redact_keeping import VaultFile
from lir_agents.inspecting import Finding, derived_findings, restate, truth_findings
from lir_agents.opening import Access, agreed_encoder, open_rooms
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.lock import IndexLock
from lir_agents.stores.tokens import LmdbTokens

__all__ = ["Finding", "RepairReport", "inspect", "repair"]

Progress = Callable[[str, int, int], None]
"""Told (what is being done, passages done, passages in all)."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was found, and what is left.

    Attributes:
        findings: What was wrong.
        left: What still is: what can be made from nothing else. Empty where the index is whole.
        event_id: The repair's entry in the audit log; empty where nothing was changed.
    """

    findings: tuple[Finding, ...]
    left: tuple[Finding, ...]
    event_id: str = ""

    @property
    def ok(self) -> bool:
        """Whether the index is whole now."""
        return not self.left


@dataclass(frozen=True, slots=True)
class _Seen:
    findings: tuple[Finding, ...]
    encoder: Encoder | None = None
    damaged: Rows | None = None


def inspect(
    path: str | Path,
    *,
    encoder: str | Path | Encoder | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """What is wrong with an index directory; nothing is mended. Reads every byte of it.

    Where the catalog or the audit log is damaged, the derived stores are not looked at.

    Args:
        path: The index directory.
        encoder: As in `LateInteractionIndex.open`.
        settings: None reads the environment and lir.toml.
        progress: See `Progress`.

    Raises:
        InputError: There is no index.
        IndexLocked: Somebody has it open.
        IntegrityError: The encoder is another than the index was made with.
    """
    layout = IndexLayout(Path(path))
    if (broken := _unrecognised(layout)) is not None:
        return (broken,)
    with IndexLock(layout.lock):
        return _look(layout, encoder, settings or load_settings(), progress).findings


def repair(
    path: str | Path,
    *,
    access: Access | None = None,
    encoder: str | Path | Encoder | None = None,
    settings: Settings | None = None,
    redactor: Redactor | None = None,
    vault: VaultFile | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Mends what can be derived, and looks again. One that is interrupted is finished by calling it again.

    Args:
        path: The index directory; nobody may have it open.
        access: As in `LateInteractionIndex.open`, like all that follow.
        encoder: What the texts are encoded with again.
        settings: None reads the environment and lir.toml.
        redactor: Where the index has one of your own.
        vault: Where the index has one.
        progress: See `Progress`.

    Returns:
        What was wrong, and what still is. Where the catalog or the audit log is damaged, nothing was changed.

    Raises:
        InputError, IndexLocked, IntegrityError: As `inspect`.
        StoreError: The repair could not be recorded (nothing was changed), or a store failed (call it again).
    """
    layout, settings = IndexLayout(Path(path)), settings or load_settings()
    if (broken := _unrecognised(layout)) is not None:
        return RepairReport((broken,), (broken,))
    with IndexLock(layout.lock):
        seen = _look(layout, encoder, settings, progress)
        if seen.encoder is None or not any(finding.mend for finding in seen.findings):
            return RepairReport(seen.findings, seen.findings)
        event_id = _record(layout, settings, seen.findings)
        _drop(layout, seen, seen.encoder)
    # Whoever opens the directory between these two steps does the rest: every opening reconciles.
    _reconcile(layout, access, seen.encoder, settings, redactor, vault, progress)
    return RepairReport(
        seen.findings, inspect(path, encoder=seen.encoder, settings=settings, progress=progress), event_id
    )


def _unrecognised(layout: IndexLayout) -> Finding | None:
    """The finding of a directory whose catalog is no catalog."""
    try:
        layout.prepare(create=False)
    except IntegrityError as error:
        return Finding("catalog", error.problem, "", remedy=error.remedy)
    return None


def _look(
    layout: IndexLayout, spec: str | Path | Encoder | None, settings: Settings, progress: Progress | None
) -> _Seen:
    truth = tuple(truth_findings(layout))
    if _hopeless(truth):
        return _Seen(truth)  # opening Chroma writes to it, and here nothing may change
    with Catalog.open(layout.catalog, create=False, read_only=True) as catalog:
        encoder = agreed_encoder(catalog, spec, settings.encoder)
        composer = Composer(encoder.token_spans, title_tokens=int(catalog.get_meta("title_tokens") or 0))
        wanted = restate(catalog, composer, _of("reading the catalog", progress))
    if count := len(wanted.broken):
        remedy = "Restore the directory from a backup, or ingest these documents again into a new one."
        problem = f"the texts of {count:,} passages are not what was added"
        return _Seen((*truth, Finding("catalog", problem, "", count, remedy)))
    derived, damaged = derived_findings(layout, encoder, wanted)
    return _Seen((*truth, *derived), encoder, damaged)


def _hopeless(findings: Sequence[Finding]) -> bool:
    """Whether the truth or its witness is damaged."""
    return any(finding.store in ("catalog", "audit") for finding in findings)


def _record(layout: IndexLayout, settings: Settings, findings: Sequence[Finding]) -> str:
    mended = [{"store": one.store, "mend": one.mend, "passages": one.rows} for one in findings if one.mend]
    with AuditLog.open(layout.audit, durability=settings.audit.durability) as log:
        return log.append(payloads.configuration(None, changed={"operation": "repair", "stores": mended}))


def _drop(layout: IndexLayout, seen: _Seen, encoder: Encoder) -> None:
    """Removes what cannot be trusted. What lacks then is made by the next opening."""
    with Catalog.open(layout.catalog, create=False) as catalog:
        codec = TokenCodec(encoder.token_dim, catalog.token_bits())
        if any(finding.mend == "forget" for finding in seen.findings):
            demand_erasure(catalog)  # an older copy of a store may hold what was erased since
    directories = {"tokens": layout.tokens, "lexical": layout.lexical, "vectors": layout.vectors}
    for store in {finding.store for finding in seen.findings if finding.mend == "rebuild"}:
        if directories[store].is_dir():
            shutil.rmtree(directories[store])
        else:  # a file in its place is foreign, too
            directories[store].unlink(missing_ok=True)
    if seen.damaged is not None and len(seen.damaged):
        with closing(LmdbTokens.open(layout.tokens, codec, encoder.dense_dim)) as tokens:
            tokens.delete(seen.damaged)


def _reconcile(
    layout: IndexLayout,
    access: Access | None,
    encoder: Encoder,
    settings: Settings,
    redactor: Redactor | None,
    vault: VaultFile | None,
    progress: Progress | None,
) -> None:
    open_rooms(
        layout.path,
        access=access,
        encoder=encoder,
        settings=settings,
        bindings=(),
        signals=(),
        store=InMemoryStore(),  # the memory file may be damaged, and is not needed
        redactor=redactor,
        vault=vault,
        create=False,
        progress=_of("writing passages", progress),
    ).resources.close()


def _of(doing: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else (lambda done, total: progress(doing, done, total))
