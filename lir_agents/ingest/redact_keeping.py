"""How an index and its vault belong together: who opens it, what goes in before documents become visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lir_agents.errors import InputError
from lir_agents.ingest.redact import RedactedDocument
from lir_agents.ingest.redact_base import Redactor
from lir_agents.stores.catalog import Catalog
from lir_agents.types import Document, Principal

if TYPE_CHECKING:
    from lir_agents.ingest.redact_vault import SqliteVault, Vault

__all__ = ["VAULT_ACTION", "Reveal", "VaultFile", "VaultKeeper", "open_vault"]

VAULT_ACTION: Final = "vault:read"
"""The action that a policy must allow; no built-in policy allows it unless told to."""

_META: Final = "vault"


@dataclass(frozen=True, slots=True)
class VaultFile:
    """Where an index keeps what it replaced, and the key that seals it.

    Args:
        path: The file, made where there is none. Keep it apart from the index, and its key apart from both.
        key: 32 random bytes, such as ``os.urandom(32)``; they are never written.
    """

    path: str | Path
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reveal:
    """One attempt to read the vault, as the audit log is to record it. It never holds the value."""

    principal: Principal | None
    principal_id: str
    document_id: str
    content_sha256: str
    placeholder: str
    allowed: bool
    reason: str


def open_vault(
    catalog: Catalog, given: VaultFile | None, redactor: Redactor | None, record: Callable[[Reveal], None]
) -> SqliteVault | None:
    """The vault that is given. An index that had one once does not do without: see `VaultKeeper`.

    Raises:
        InputError: The index redacts nothing, so there is nothing to keep.
        ConfigError, IntegrityError, StoreError: See `SqliteVault`.
    """
    if given is None:
        return None
    if redactor is None:
        raise InputError(
            "is given, and this index redacts nothing", field="vault", remedy="Make the index with redactor=True."
        )
    from lir_agents.ingest.redact_vault import SqliteVault

    vault = SqliteVault(given.path, given.key, record)
    catalog.set_meta(_META, "on")
    return vault


class VaultKeeper:
    """The vault of one index; or, where it had one and it is not open, the refusal to lose anything for it.

    Args:
        catalog: The index's.
        vault: The open vault, if any.
        access_key: From the policy: document to access key.
    """

    def __init__(self, catalog: Catalog, vault: Vault | None, access_key: Callable[[Document], str]) -> None:
        self._vault, self._access_key = vault, access_key
        self._promised = catalog.get_meta(_META) is not None

    def vault(self) -> Vault:
        """The open vault.

        Raises:
            InputError: None is open.
        """
        if self._vault is None:
            raise InputError("is not open", field="vault", remedy="Open the index with vault=VaultFile(path, key).")
        return self._vault

    def keep(self, digests: Mapping[str, str], redacted: Mapping[str, RedactedDocument]) -> None:
        """Seals what was replaced in documents that are about to become visible.

        Args:
            digests: Content digest by document id.
            redacted: What was replaced, by document id.

        Raises:
            InputError: The index keeps what it replaces, and its vault is not open.
            StoreError: The vault could not be written.
        """
        if redacted and self._promised:
            vault = self.vault()
            for name, one in redacted.items():
                key = self._access_key(one.document)
                for field_name, original in one.originals.items():
                    vault.keep(name, digests[name], key, original, one.fields[field_name].findings)

    def forget(self, document_ids: Sequence[str]) -> None:
        """Removes everything of these documents. Raises as `keep`."""
        if self._promised:
            self.vault().forget(document_ids)
