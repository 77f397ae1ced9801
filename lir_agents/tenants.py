"""Tenants apart: one index directory each, so that nothing of one surfaces, counts or takes time in another's."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from lir_agents.encoding.open import open_encoder
from lir_agents.engine import LateInteractionIndex
from lir_agents.errors import AccessDenied, InputError, Overloaded
from lir_agents.reports import AddReport
from lir_agents.stores.layout import IndexLayout
from lir_agents.types import Principal, SearchResult

if TYPE_CHECKING:
    from lir_agents.encoding.base import Encoder

__all__ = ["TenantIndexes"]


@dataclass(slots=True)
class _Slot:
    """An open index, or one that is being opened (`index` is None), and how many are using it."""

    index: LateInteractionIndex | None = None
    users: int = 1


class TenantIndexes:
    """A directory of indexes, one per tenant: stores, memory, caches and audit logs are each tenant's own.

    Shared is the encoder, which keeps nothing of what it encodes. A directory's name is a digest of the tenant's,
    so no name can lead out of the root, and two names never meet. Safe to share between threads.

    Example:
        >>> with TenantIndexes.open("tenants", access="acl") as tenants:
        ...     tenants.add(documents, tenant="aventro")
        ...     tenants.search("how do I change a tyre?", principal=Principal("ann", tenant="aventro"))
    """

    def __init__(
        self, root: Path, *, encoder: Encoder, max_open: int, wait_s: float, options: dict[str, Any]
    ) -> None:
        self._root, self._encoder, self._max_open, self._wait_s = root, encoder, max_open, wait_s
        self._options = options
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        encoder: str | Path | Encoder | None = None,
        max_open: int = 16,
        wait_s: float = 10.0,
        **options: Any,
    ) -> TenantIndexes:
        """Opens a directory of indexes, or makes one.

        Args:
            root: The directory.
            encoder: Of every tenant; None: the bundled model.
            max_open: Indexes open at a time; the one used least recently is closed for another.
            wait_s: How long a caller waits, in seconds, while every open index is in use.
            options: As `LateInteractionIndex.open` takes them, for every tenant.

        Raises:
            InputError: `max_open` is below 1, the root is a file, or one vault is given for all.
        """
        if options.get("vault") is not None:
            raise InputError(
                "is one for every tenant",
                field="vault",
                remedy="Redact without a vault, or open the tenants' indexes apart.",
            )
        if max_open < 1:
            raise InputError(f"is {max_open}", field="max_open", remedy="Use 1 or more.")
        path = Path(root)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file", field="root", remedy="Name a directory.")
        shared = open_encoder(encoder)
        return cls(path, encoder=shared, max_open=max_open, wait_s=wait_s, options=options)

    # ------------------------------------------------------------ use

    def search(self, query: str, *, principal: Principal, **options: Any) -> SearchResult:
        """`LateInteractionIndex.search` in the index of the principal's tenant.

        Raises:
            AccessDenied: The principal is of no tenant.
            InputError: The tenant has no index.
            Overloaded: Every open index stayed in use.
        """
        with self.of(principal) as index:
            return index.search(query, principal=principal, **options)

    def search_batch(self, queries: Iterable[str], *, principal: Principal, **options: Any) -> list[SearchResult]:
        """`LateInteractionIndex.search_batch` in the index of the principal's tenant. Raises as `search`."""
        with self.of(principal) as index:
            return index.search_batch(queries, principal=principal, **options)

    def add(self, documents: Iterable[Any], *, tenant: str) -> AddReport:
        """Adds documents to a tenant's index, which is made where there is none; see `LateInteractionIndex.add`."""
        with self._lease(_named(tenant), create=True) as index:
            return index.add(documents)

    @contextmanager
    def of(self, principal: Principal) -> Iterator[LateInteractionIndex]:
        """The index of the principal's tenant, open for as long as the block lasts.

        Raises as `search`.
        """
        if not isinstance(principal, Principal) or not principal.tenant:
            _refuse()
        with self._lease(principal.tenant, create=False) as index:
            yield index

    def erase_tenant(self, tenant: str) -> bool:
        """Removes a tenant's whole directory: documents, memory and audit log. False where there is none.

        Raises:
            Overloaded: The index stayed in use.
        """
        import shutil

        name = _directory(_named(tenant))
        with self._changed:
            self._wait_until(lambda: name not in self._slots or self._close_if_idle(name))
            directory = self._root / name
            if not directory.is_dir():
                return False
            shutil.rmtree(directory)
        return True

    # ------------------------------------------------------------ opening and closing

    @contextmanager
    def _lease(self, tenant: str, *, create: bool) -> Iterator[LateInteractionIndex]:
        name = _directory(tenant)
        slot, mine = self._slot(name)
        if mine:
            self._open(name, slot, create)
        try:
            assert slot.index is not None  # it was open, or is by now
            yield slot.index
        finally:
            with self._changed:
                slot.users -= 1
                self._changed.notify_all()

    def _slot(self, name: str) -> tuple[_Slot, bool]:
        """The slot of an open index; or, once there is room, a new one that the caller has to open it in: True."""
        with self._changed:
            self._wait_until(lambda: self._is_open(name) or (name not in self._slots and self._has_room()))
            slot = self._slots.get(name)
            if slot is None:
                slot = self._slots[name] = _Slot()
                return slot, True
            slot.users += 1
            self._slots.move_to_end(name)
            return slot, False

    def _open(self, name: str, slot: _Slot, create: bool) -> None:
        """Opens the index of a slot that this caller made. Other tenants go on meanwhile."""
        index = None
        try:
            if not create and not IndexLayout(self._root / name).catalog.is_file():
                raise InputError("has no index", field="principal.tenant", remedy="Add documents for it first.")
            index = LateInteractionIndex.open(
                self._root / name, encoder=self._encoder, create=create, **self._options
            )
            with self._changed:
                self._require_open()  # closed meanwhile: nobody else knows of this index, or would close it
                slot.index = index
                self._changed.notify_all()
        except BaseException:
            try:
                if index is not None:
                    index.close()
            finally:
                with self._changed:
                    del self._slots[name]
                    self._changed.notify_all()
            raise

    def _is_open(self, name: str) -> bool:
        return name in self._slots and self._slots[name].index is not None

    def _has_room(self) -> bool:
        """Whether another index may be opened, closing the one used least recently where that makes room."""
        return len(self._slots) < self._max_open or any(self._close_if_idle(name) for name in list(self._slots))

    def _close_if_idle(self, name: str) -> bool:
        slot = self._slots[name]
        if slot.users or slot.index is None:
            return False
        del self._slots[name]
        slot.index.close()
        return True

    def _wait_until(self, holds: Any) -> None:
        deadline = time.monotonic() + self._wait_s
        while True:
            self._require_open()
            if holds():
                return
            if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                raise Overloaded("Every open index is in use.", retry_after_s=1.0, remedy="Raise max_open.")

    def _require_open(self) -> None:
        if self._closed:
            raise InputError("is closed", field="tenants", remedy="Open it again.")

    def close(self) -> None:
        """Closes every index; calls under way end with an error. Idempotent.

        One that is being opened at this moment is closed by whoever opens it; it is waited for, `wait_s` at most.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            with ExitStack() as closing:  # an index that fails to close keeps no other one open
                for name, slot in list(self._slots.items()):
                    if slot.index is not None:
                        closing.callback(slot.index.close)
                        del self._slots[name]
            self._changed.wait_for(lambda: not self._slots, self._wait_s)

    def __enter__(self) -> TenantIndexes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _directory(tenant: str) -> str:
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()


def _named(tenant: str) -> str:
    if not isinstance(tenant, str) or not tenant:
        raise InputError(f"is {tenant!r}", field="tenant", remedy="Pass a non-empty string.")
    return tenant


def _refuse() -> NoReturn:
    raise AccessDenied("refused: the principal is of no tenant.", remedy="Pass Principal(..., tenant=...).")
