"""Opens an index directory: every room of it, agreed with what the index was made with, or none at all."""

from __future__ import annotations

import secrets
import sqlite3
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langgraph.store.base import BaseStore

from lir_agents.audit import payloads
from lir_agents.audit.canonical import Erasable
from lir_agents.audit.log import AuditLog
from lir_agents.bindings import MetadataSignal, ToolBinding
from lir_agents.codes import Bits, TokenCodec
from lir_agents.config import AuditSettings, EncoderSettings, FusionSettings, Settings
from lir_agents.encoding.base import Encoder
from lir_agents.encoding.open import open_encoder
from lir_agents.errors import ConfigError, InputError, IntegrityError, StoreError
from lir_agents.graph.rooms import Rooms
from lir_agents.ingest.compose import Budget, Composer
from lir_agents.ingest.pipeline import Committing, Ingestor, Redactions
from lir_agents.ingest.reconcile import reconcile
from lir_agents.ingest.redact_agreement import agreed_redactor
from lir_agents.ingest.redact_base import Redactor
from lir_agents.ingest.redact_keeping import VAULT_ACTION, Reveal, VaultFile, VaultKeeper, open_vault
from lir_agents.memory.session import SessionMemory
from lir_agents.policy.base import Policy
from lir_agents.policy.guard import open_policy
from lir_agents.ranking.fusion import FusionWeights
from lir_agents.reports import AddReport
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.lexical import LmdbLexical
from lir_agents.stores.lock import IndexLock
from lir_agents.stores.tokens import LmdbTokens
from lir_agents.stores.vectors import ChromaVectors
from lir_agents.telemetry import switch_on
from lir_agents.types import Decision, Principal, ToolSignal, Turn

if TYPE_CHECKING:
    from langgraph.store.sqlite import SqliteStore

__all__ = ["Access", "Opened", "agreed_encoder", "open_rooms"]

_MOST_MS = 2**31 - 1
"""What SQLite takes for milliseconds; more would be none at all."""

_LAST_CALL_S = 5.0
"""Seconds that closing waits for a call to memory that is under way."""

Access = Literal["open", "acl"] | Policy


@dataclass(frozen=True, slots=True)
class Opened:
    """An open index directory. Closing `resources` releases every file and the lock."""

    path: Path
    rooms: Rooms
    ingestor: Ingestor
    keeper: VaultKeeper
    resources: ExitStack


def open_rooms(
    path: Path,
    *,
    access: Access | None,
    encoder: str | Path | Encoder | None,
    settings: Settings,
    bindings: Sequence[ToolBinding],
    signals: Sequence[MetadataSignal],
    store: BaseStore | None,
    redactor: Redactor | Literal[True] | None,
    vault: VaultFile | None,
    create: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Opened:
    """Opens the rooms in the order they depend on each other; see `LateInteractionIndex.open`.

    Raises:
        InputError, IndexLocked, IntegrityError, ConfigError, StoreError: Nothing stays open.
    """
    if settings.telemetry.enabled:
        switch_on(settings.telemetry)
    layout = IndexLayout(path)
    layout.prepare(create=create)
    with ExitStack() as opening:
        opening.enter_context(IndexLock(layout.lock))
        catalog = opening.enter_context(Catalog.open(layout.catalog, create=create))
        policy = _agreed_policy(catalog, access)
        model = agreed_encoder(catalog, encoder, settings.encoder)
        cleaner = agreed_redactor(catalog, redactor or settings.ingest.redact or None)
        audit = opening.enter_context(_agreed_audit(catalog, layout.audit, settings.audit))
        _write_down(catalog, policy, model, audit, cleaner)
        keeper = _vault_keeper(catalog, vault, cleaner, policy, audit, opening)
        tokens, lexical, vectors = _derived_stores(layout, catalog, settings, model, policy, opening)
        composer = Composer(model.token_spans, title_tokens=_agreed_title_tokens(catalog, settings, model))
        reconcile(catalog, tokens, vectors, lexical, encoder=model, composer=composer, progress=progress)
        rooms = Rooms(
            catalog=catalog,
            vectors=vectors,
            tokens=tokens,
            lexical=lexical,
            encoder=model,
            composer=composer,
            policy=policy,
            audit=audit,
            memory=_session_memory(layout, store, audit, settings, opening),
            settings=settings,
            origin=uuid.uuid4().hex,
            weights=_weights(settings.fusion),
            bindings=tuple(bindings),
            signals=tuple(signals),
        )
        return Opened(layout.path, rooms, _ingestor(rooms, cleaner, keeper), keeper, opening.pop_all())
    raise AssertionError("unreachable: the stack either returns or raises")


def _vault_keeper(
    catalog: Catalog,
    vault: VaultFile | None,
    cleaner: Redactor | None,
    policy: Policy,
    audit: AuditLog,
    opening: ExitStack,
) -> VaultKeeper:
    """Keeps the vault, if one is given; every look into it is recorded."""
    sealed = open_vault(catalog, vault, cleaner, partial(_record_reveal, audit))
    if sealed is not None:
        opening.callback(sealed.close)
    return VaultKeeper(catalog, sealed, policy.access_key)


def _derived_stores(
    layout: IndexLayout, catalog: Catalog, settings: Settings, model: Encoder, policy: Policy, opening: ExitStack
) -> tuple[LmdbTokens, LmdbLexical, ChromaVectors]:
    """What can be made again from the catalog: token vectors, words, pooled vectors."""
    bits = _agreed_token_bits(catalog, settings)
    tokens = LmdbTokens.open(layout.tokens, TokenCodec(model.token_dim, bits), model.dense_dim)
    opening.callback(tokens.close)
    lexical = LmdbLexical.open(layout.lexical)
    opening.callback(lexical.close)
    # Under a policy every search is exact: the approximate index answers only somebody who may read everything,
    # and its hits would tell that person when something unreadable is added.
    route = {} if policy.name == "open" else {"hnsw_above": sys.maxsize}
    vectors = ChromaVectors.open(layout.vectors, model.dense_dim, source=tokens.pooled, **route)
    opening.callback(vectors.close)
    # Only now that all three are open: one that is not has fixed nothing.
    if catalog.get_meta("token_bits") is None:
        catalog.set_meta("token_bits", str(bits))
    return tokens, lexical, vectors


def _ingestor(rooms: Rooms, cleaner: Redactor | None, keeper: VaultKeeper) -> Ingestor:
    """Writes into the rooms what searches read there."""
    return Ingestor(
        catalog=rooms.catalog,
        encoder=rooms.encoder,
        tokens=rooms.tokens,
        vectors=rooms.vectors,
        lexical=rooms.lexical,
        access_key=rooms.policy.access_key,
        composer=rooms.composer,
        settings=rooms.settings.ingest,
        committing=_recorder(rooms.catalog, rooms.audit, keeper),
        redactor=cleaner,
    )


def _session_memory(
    layout: IndexLayout, store: BaseStore | None, audit: AuditLog, settings: Settings, opening: ExitStack
) -> SessionMemory:
    """Memory over the caller's store, or over one file of the index directory."""
    memory = partial(
        SessionMemory, index_id=audit.origin, settings=settings.memory, recording=partial(_record_memory, audit)
    )
    if store is not None:
        return memory(store)
    own = _sqlite_store(layout.memory, settings.memory.timeout_s, opening)
    return memory(own, near=True, scrub=partial(_empty_log, layout.memory))


def _weights(settings: FusionSettings) -> FusionWeights:
    """The weights that ship, with those in place that are set."""
    weights = replace(FusionWeights(), **settings.model_dump(exclude_none=True))
    if weights.maxsim + weights.dense + weights.lexical == 0:
        raise ConfigError(
            "fusion.maxsim, fusion.dense and fusion.lexical are all 0",
            setting="fusion",
            remedy="Give one of them a weight.",
        )
    return weights


def _sqlite_store(path: Path, timeout_s: float, opening: ExitStack) -> SqliteStore:
    """LangGraph's own SQLite store, in one file of the index directory."""
    from langgraph.store.sqlite import SqliteStore

    try:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        store = SqliteStore(connection)
        opening.callback(_close_store, store)
        connection.execute("PRAGMA journal_mode=WAL")
        # What a conversation said may be lost with the last second of a crashed machine; what it is worth does not
        # warrant a disk sync in every search.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA secure_delete=ON")
        store.setup()
        connection.execute(f"PRAGMA busy_timeout={int(min(max(timeout_s * 1000, 1), _MOST_MS))}")
    except sqlite3.Error as error:
        raise StoreError(str(error), store="memory", operation="open", remedy=f"Move {path} away.") from error
    return store


def _close_store(store: Any) -> None:
    """Closes the connection when nobody is using it: a search that was given up may still be reading.

    Closed under a running statement, SQLite crashes the process. Whoever holds it for longer keeps it.
    """
    if store.lock.acquire(timeout=_LAST_CALL_S):
        try:
            store.conn.close()
        finally:
            store.lock.release()


def _empty_log(path: Path) -> None:
    """Folds the write-ahead log of memory into its file, where `secure_delete` has blanked what was dropped."""
    with closing(sqlite3.connect(path, timeout=5.0)) as connection:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise TimeoutError("somebody kept reading")


def _record_memory(
    audit: AuditLog, principal: Principal | None, thread_id: str | None, said: Sequence[Turn | ToolSignal] | None
) -> None:
    if said is None or thread_id is None:
        audit.append(payloads.memory_write(principal, operation="forget", thread_id=thread_id))
    else:
        audit.append_many(payloads.remembered(principal, thread_id, said))


def _record_reveal(audit: AuditLog, look: Reveal) -> None:
    made = Decision(look.allowed, VAULT_ACTION, look.principal_id, look.reason)
    about = Erasable({"document_id": look.document_id, "content_sha256": look.content_sha256}, look.document_id)
    detail = {"operation": "reveal", "document": about, "placeholder": look.placeholder}
    audit.append(payloads.decision(look.principal, made, detail=detail))


def _recorder(catalog: Catalog, audit: AuditLog, keeper: VaultKeeper) -> Committing:
    def record(documents: Sequence[tuple[str, int, str]], report: AddReport, redactions: Redactions) -> None:
        changed = {name: redactions[name] for name, _, _ in documents if name in redactions}
        keeper.keep({name: digest for name, _, digest in documents}, changed)
        generation = catalog.generation()
        ingest = payloads.ingest(
            None,
            documents=documents,
            report=report,
            generation=generation.fingerprint if generation else "",
            index_epoch=catalog.epoch + 1,
        )
        replaced = [
            payloads.redaction(None, document_id=name, version=version, counts=changed[name].counts)
            for name, version, _ in documents
            if name in changed
        ]
        audit.append_many([ingest, *replaced])

    return record


def _agreed_policy(catalog: Catalog, access: Access | None) -> Policy:
    """The policy the index was created with; what is asked for must be the same."""
    recorded = catalog.get_meta("access")
    policy = open_policy(access if access is not None else _by_name(recorded or "open"))
    if recorded is not None and policy.name != recorded:
        raise InputError(
            f"is {policy.name!r}, and this index was created with {recorded!r}",
            field="access",
            remedy="Leave access out, or ingest into a new index: who may read is fixed when an index is made.",
        )
    return policy


def _by_name(name: str) -> Literal["open", "acl"]:
    if name == "open":
        return "open"
    if name == "acl":
        return "acl"
    raise ConfigError(
        f"this index was created with the policy {name!r}", setting="access", remedy="Pass that policy as access=."
    )


def agreed_encoder(catalog: Catalog, spec: str | Path | Encoder | None, settings: EncoderSettings) -> Encoder:
    """The encoder whose vectors the index holds; any other is refused by its fingerprint."""
    generation = catalog.generation()
    if spec is None and generation is not None:
        spec = generation.name
    encoder = open_encoder(spec, settings=settings)
    if generation is not None and generation.fingerprint != encoder.fingerprint:
        raise IntegrityError(
            f"This index holds vectors of {generation.name} ({generation.fingerprint[:12]}), and the encoder given "
            f"is {encoder.name} ({encoder.fingerprint[:12]}); vectors of two encoders never meet.",
            remedy="Open it with the encoder it was made with, or ingest into a new index.",
        )
    return encoder


def _agreed_title_tokens(catalog: Catalog, settings: Settings, encoder: Encoder) -> int:
    """How much of a title is encoded with each passage: fixed when the index is made, because every stored vector
    and every explanation depends on it."""
    wanted, recorded = Budget.of(settings.ingest, encoder).title, catalog.get_meta("title_tokens")
    if recorded is None:
        catalog.set_meta("title_tokens", str(wanted))
    elif int(recorded) != wanted:
        raise ConfigError(
            f"ingest.title_tokens is {wanted}, and this index was made with {recorded}",
            setting="ingest.title_tokens",
            remedy=f"Set it to {recorded}, or ingest into a new index.",
        )
    return wanted


def _agreed_token_bits(catalog: Catalog, settings: Settings) -> Bits:
    """How precisely token vectors are stored: fixed when the index is made, as every stored vector is."""
    wanted, recorded = settings.ingest.token_bits, catalog.token_bits()
    if catalog.get_meta("token_bits") is None:
        return wanted or recorded
    if wanted not in (None, recorded):
        raise ConfigError(
            f"ingest.token_bits is {wanted}, and this index was made with {recorded}",
            setting="ingest.token_bits",
            remedy="Leave it out, or ingest into a new index.",
        )
    return recorded


def _agreed_audit(catalog: Catalog, path: Path, settings: AuditSettings) -> AuditLog:
    """The audit log that the index began with; a missing one is not replaced by an empty one that would verify."""
    origin = catalog.get_meta("audit")
    if origin is not None and not path.exists():
        raise IntegrityError(
            f"{path} is gone: the audit log of this index.", remedy="Restore it from a backup, with the catalog."
        )
    audit = AuditLog.open(path, durability=settings.durability)
    if origin not in (None, audit.origin):
        audit.close()
        raise IntegrityError(
            f"{path} is the audit log of another index.", remedy="Restore this index's own from a backup."
        )
    return audit


def _write_down(
    catalog: Catalog, policy: Policy, encoder: Encoder, audit: AuditLog, cleaner: Redactor | None
) -> None:
    """Writes down what a new index is made with, once all of it is known to be there."""
    if catalog.generation() is None:
        if policy.name != "open" or cleaner is not None:
            catalog.set_meta("id_key", secrets.token_hex(32))
        catalog.add_generation(
            fingerprint=encoder.fingerprint,
            name=encoder.name,
            dense_dim=encoder.dense_dim,
            token_dim=encoder.token_dim,
        )
    for key, value in (("access", policy.name), ("audit", audit.origin)):
        if catalog.get_meta(key) is None:
            catalog.set_meta(key, value)
