"""A vault for what was replaced: only if asked for, encrypted, under its own right, every look recorded first."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lir_agents.errors import AccessDenied, ConfigError, InputError, IntegrityError, StoreError
from lir_agents.ingest.redact_base import Finding
from lir_agents.ingest.redact_keeping import VAULT_ACTION, Reveal
from lir_agents.types import Decision, Principal

__all__ = ["VAULT_ACTION", "Reveal", "Right", "SqliteVault", "Vault"]

_SCHEMA = """CREATE TABLE IF NOT EXISTS vault (
    document TEXT NOT NULL, content TEXT NOT NULL, placeholder TEXT NOT NULL,
    access_key TEXT NOT NULL, nonce BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (document, content, access_key, placeholder)) WITHOUT ROWID"""


class Right(Protocol):
    """What the vault needs of an access scope; the policy's own scopes have it."""

    @property
    def principal(self) -> Principal | None: ...
    @property
    def decision(self) -> Decision: ...
    def allows(self, access_key: str) -> bool: ...


class Vault(Protocol):
    """Where replaced values are kept."""

    def keep(
        self, document_id: str, content_sha256: str, access_key: str, text: str, findings: Iterable[Finding]
    ) -> None:
        """Seals what the findings replaced in the original `text`."""

    def reveal(self, right: Right, document_id: str, content_sha256: str, access_key: str, placeholder: str) -> str:
        """The value behind a placeholder. Raises AccessDenied or InputError."""

    def forget(self, document_ids: Sequence[str]) -> int:
        """Removes all values of these documents, for erasure; how many they were."""


class SqliteVault:
    """A vault in a SQLite file of its own, values sealed with AES-256-GCM.

    Document, content, placeholder and access key are bound to each value as associated data: a row that was
    moved to another document or made readable to others does not open.

    Args:
        path: The file. Keep it, and its key, apart from the index.
        key: 32 random bytes, from the caller; they are never written.
        record: Called with every attempt before a value is handed out; if it raises, nothing is.

    Raises:
        ConfigError: The key is not 32 bytes.
        IntegrityError: The file was sealed with another key.
        StoreError: The file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], key: bytes, record: Callable[[Reveal], None]) -> None:
        if len(key) != 32:
            raise ConfigError("the vault's key is not 32 bytes", setting="key", remedy="Use os.urandom(32).")
        self._cipher, self._record, self._lock = AESGCM(key), record, threading.Lock()
        try:
            self._db = sqlite3.connect(Path(path), check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
            sample = self._db.execute(
                "SELECT document, content, placeholder, access_key, nonce, sealed FROM vault LIMIT 1"
            ).fetchone()
        except sqlite3.Error as error:
            raise StoreError(str(error), store="vault", operation="open") from error
        if sample:
            self._open(*sample[4:], *sample[:4])

    def keep(
        self, document_id: str, content_sha256: str, access_key: str, text: str, findings: Iterable[Finding]
    ) -> None:
        """See `Vault.keep`. One transaction; equal placeholders are kept once."""
        rows = []
        for finding in {finding.placeholder: finding for finding in findings}.values():
            names = (document_id, content_sha256, finding.placeholder)
            nonce, value = os.urandom(12), text[finding.start : finding.end].encode("utf-8", "surrogatepass")
            rows.append((*names, access_key, nonce, self._cipher.encrypt(nonce, value, _bound(*names, access_key))))
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO vault VALUES (?, ?, ?, ?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StoreError(str(error), store="vault", operation="keep") from error

    def reveal(self, right: Right, document_id: str, content_sha256: str, access_key: str, placeholder: str) -> str:
        """The value behind a placeholder, for a scope of the action "vault:read" that may read the document.

        Versions that are alike once they are redacted, for different readers, may stand for different values: the
        access key that one was added under is a part of its name.

        Raises:
            AccessDenied: The scope is for another action, or does not reach the document. A document that the
                vault does not know is refused in the same words.
            IntegrityError: The row was altered, or sealed with another key.
        """
        decision = right.decision
        row = self._row(document_id, content_sha256, placeholder, access_key)
        allowed, reason = False, "the right to read the vault was not given"
        if decision.allowed is True and decision.action == VAULT_ACTION:
            allowed = row is not None and right.allows(access_key)
            reason = "allowed" if allowed else "there is nothing there that this principal may read"
        self._record(
            Reveal(
                principal=right.principal,
                principal_id=decision.principal_id,
                document_id=document_id,
                content_sha256=content_sha256,
                placeholder=placeholder,
                allowed=allowed,
                reason=reason,
            )
        )
        if row is None or not allowed:
            refused = Decision(False, VAULT_ACTION, decision.principal_id, reason, decision.epoch)
            raise AccessDenied(f"{VAULT_ACTION} refused: {reason}.", decision=refused)
        return self._open(*row, document_id, content_sha256, placeholder, access_key)

    def forget(self, document_ids: Sequence[str]) -> int:
        """See `Vault.forget`. The bytes are overwritten in the file."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                gone = sum(
                    self._db.execute("DELETE FROM vault WHERE document = ?", (name,)).rowcount
                    for name in document_ids
                )
                self._db.execute("COMMIT")
                self._db.execute("VACUUM")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StoreError(str(error), store="vault", operation="forget") from error
        return gone

    def close(self) -> None:
        """Releases the file. Idempotent."""
        self._db.close()

    def _row(self, *names: str) -> tuple[bytes, bytes] | None:
        if not all(isinstance(name, str) for name in names):
            raise InputError("is not a string", field="placeholder", remedy="Name document, content, placeholder.")
        query = (
            "SELECT nonce, sealed FROM vault"
            " WHERE document = ? AND content = ? AND placeholder = ? AND access_key = ?"
        )
        with self._lock:
            try:
                row: tuple[bytes, bytes] | None = self._db.execute(query, names).fetchone()
            except sqlite3.Error as error:
                raise StoreError(str(error), store="vault", operation="reveal") from error
        return row

    def _open(self, nonce: bytes, sealed: bytes, *names: str) -> str:
        try:
            value = self._cipher.decrypt(nonce, sealed, _bound(*names))
        except InvalidTag as error:
            raise IntegrityError(
                "the vault holds a value that this key did not seal",
                remedy="Open it with the key it was made with.",
            ) from error
        return value.decode("utf-8", "surrogatepass")


def _bound(*names: str) -> bytes:
    return b"".join(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in names)
