"""The governed half of an index: reading versions, what changed, going back, erasing, asking again.

Everything here goes through the policy and is recorded before it is told or done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from lir_agents.audit import payloads
from lir_agents.audit.canonical import Erasable
from lir_agents.errors import InputError, LirError, StoreError
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.recall import readable_names
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.history import RollbackReport, VersionDiff, compare
from lir_agents.ingest.pipeline import Ingestor
from lir_agents.ingest.redact_keeping import VAULT_ACTION, VaultKeeper
from lir_agents.policy.base import AccessScope
from lir_agents.replaying import ReplayReport, replay
from lir_agents.searched import SearchedIndex
from lir_agents.stores.records import Change, Standing, StoredDocument, VersionInfo, passage_id
from lir_agents.types import Passage, Principal

__all__ = ["GovernedIndex"]

_log = logging.getLogger("lir_agents.erasing")

_SETTLED_IN_S: Final = 30.0
"""Longest that erasing waits for answers which found a document before it was gone."""


class GovernedIndex(SearchedIndex):
    """What `LateInteractionIndex` inherits; see there."""

    _ingestor: Ingestor
    _keeper: VaultKeeper

    # ------------------------------------------------------------ removing

    def delete(self, ids: Sequence[str]) -> int:
        """Retires documents: they surface no more; their versions stay for audit and `as_of`.

        Returns:
            How many passages surface no more.
        """
        rooms, names = self.rooms, _ids(ids)
        changed = [(name, None) for name in names]
        rooms.audit.append(
            payloads.version(None, operation="retire", documents=changed, index_epoch=rooms.catalog.epoch + 1)
        )
        return self._ingestor.delete(names)

    def erase(self, ids: Sequence[str]) -> int:
        """Removes every version of the documents from the index, the log and memory, and from the bytes on disk.

        One that fails or is killed on the way is finished by the next `erase` or by opening the index again.

        Returns:
            How many passages were erased.

        Raises:
            InputError: The index has a vault, and it is not open; nothing was erased.
            StoreError: It could not be recorded, and nothing but the vault was touched; or a store failed, or an
                answer that was under way did not end within 30 seconds: calling again removes the rest.
        """
        rooms, names = self.rooms, _ids(ids)
        self._keeper.forget(names)
        passages = sum(info.passages for name in names for info in rooms.catalog.versions(name))
        rooms.audit.append(
            payloads.erasure(None, document_ids=names, rows=passages, index_epoch=rooms.catalog.epoch + 1)
        )
        rows = self._ingestor.erase(names)
        self._forget_erased()
        return len(rows)

    def _forget_erased(self) -> None:
        """Has the log and memory forget what the stores have erased, and the catalog the names it kept for them."""
        rooms = self.rooms
        if (names := rooms.catalog.owed()) is None:
            return
        # Nobody finds them any more; who found them before writes their names yet.
        settled = rooms.in_flight.settled(_SETTLED_IN_S)
        try:
            rooms.audit.erase_documents(names)
        finally:  # a log that cannot be written now, or is being read, keeps no conversation from forgetting
            rooms.memory.unlearn(names)
        rooms.audit.compact()
        if not settled:
            raise StoreError(
                "was still being answered from: an answer under way may name the documents yet",
                store="index",
                operation="erase",
                retryable=True,
                remedy="They are erased and surface no more. Call erase again, so that no such name stays.",
            )
        rooms.catalog.paid(names)

    def _finish_erasure(self) -> None:
        """At opening: does what an interrupted erasure left undone. What cannot be done now, `verify` tells of."""
        try:
            self._forget_erased()
        except LirError as error:
            _log.warning("An erasure is not finished in the log and memory yet: %s", error)

    # ------------------------------------------------------------ reading

    def get(
        self, id: str, version: int | None = None, *, principal: Principal | None = None
    ) -> StoredDocument | None:
        """The current version of a document, or the version named, as its newest ACL allows.

        Args:
            id: The document.
            version: An older version; None: the current one.
            principal: Who asks. Required by every index that is not open.

        Returns:
            The document; None where there is none that the principal may read.

        Raises:
            AccessDenied: The policy refused the request; the refusal is recorded.
            StoreError: It could not be recorded.
        """
        principal, scope = self._authorized(principal, "get")
        with self.rooms.in_flight.answering():
            standing = self._within(scope, id, version)
            if standing is None or (document := standing.documents[0]) is None:
                return None
            about = {"document": Erasable(id, subject=id), "version": document.info.version}
            self._record(principal, scope, "get", **about)
        return document

    def versions(self, id: str, *, principal: Principal | None = None) -> list[VersionInfo]:
        """The versions of a document, oldest first, as its newest ACL allows.

        Returns:
            Numbers, digests and dates; empty where there is no document that the principal may read.

        Raises as `get`.
        """
        principal, scope = self._authorized(principal, "get")
        with self.rooms.in_flight.answering():
            if versions := self._versions_within(scope, id):
                self._record(principal, scope, "versions", document=Erasable(id, subject=id))
        return versions

    def changes(self, since: int | datetime = 0, *, principal: Principal | None = None) -> list[Change]:
        """What happened to documents after an epoch or a moment, oldest first; erased ones are in none of it.

        Args:
            since: An epoch, or an aware datetime.
            principal: Who asks; told of what it may read now.

        Raises as `get`.
        """
        rooms = self.rooms
        principal, scope = self._authorized(principal, "get")
        changes = rooms.catalog.changes(self._epoch(since, "since"))
        named = {
            change: passage_id(change.document_id, change.version or change.previous or 1, 0) for change in changes
        }
        with refusals_recorded(rooms, principal):
            told = readable_names(rooms, scope, list(named.values()))
        self._record(principal, scope, "changes", since=str(since))
        return [change for change in changes if named[change] in told]

    def diff(self, id: str, before: int, after: int, *, principal: Principal | None = None) -> VersionDiff | None:
        """What changed from one version of a document to another.

        Returns:
            Lines, passages and fields that differ; None where there are no such versions that the principal may
            read.

        Raises as `get`.
        """
        principal, scope = self._authorized(principal, "get")
        with self.rooms.in_flight.answering():
            standing = self._within(scope, id, before, after)
            old, new = (None, None) if standing is None else standing.documents
            if old is None or new is None:
                return None
            self._record(principal, scope, "diff", document=Erasable(id, subject=id), before=before, after=after)
        return compare(old, new, (self._passages(old), self._passages(new)))

    def reveal(
        self, id: str, placeholder: str, version: int | None = None, *, principal: Principal | None = None
    ) -> str:
        """What a placeholder of a document stands for, out of the vault. Recorded before it is told.

        Args:
            id: The document.
            placeholder: As it stands in the text, such as "[EMAIL_1]".
            version: Of the document; None: the current one.
            principal: Who asks. The right "vault:read" is nobody's unless the policy gives it, and reaches only
                documents that the principal may read now and might have read when the version was added.

        Raises:
            AccessDenied: The policy refused, or there is nothing there that the principal may read.
            InputError: The vault is not open.
            StoreError: It could not be recorded.
        """
        principal, scope = self._authorized(principal, VAULT_ACTION)
        vault = self._keeper.vault()
        with self.rooms.in_flight.answering():
            standing = self._within(scope, id, version)
            document, key = (None, None) if standing is None else (standing.documents[0], standing.keys[0])
            return vault.reveal(scope, id, document.content_sha256 if document else "", key or "", placeholder)

    # ------------------------------------------------------------ going back

    def rollback(self, id: str, version: int, *, principal: Principal | None = None) -> int:
        """Makes an old version's content current again, as the next version, without encoding anything.

        Text, title, URI and metadata go back; who may read the document stays as it is now.

        Args:
            id: The document.
            version: Which of its versions.
            principal: Who asks. A governed index gives the right "rollback" to nobody unless its policy does.

        Returns:
            The number of the new version.

        Raises:
            AccessDenied: The policy refused the request; the refusal is recorded.
            InputError: There is no such version that the principal may read.
            StoreError: It could not be recorded or written; nothing was changed.
        """
        rooms = self.rooms
        principal, scope = self._authorized(principal, "rollback")
        with rooms.in_flight.answering():
            if not any(info.version == version for info in self._versions_within(scope, id)):
                raise InputError(f"{id!r} has no version {version}", field="version", remedy="See versions(id).")
            rooms.audit.append(
                payloads.version(
                    principal, operation="rollback", documents=[(id, version)], index_epoch=rooms.catalog.epoch + 1
                )
            )
        return self._ingestor.rollback(id, version)

    def rollback_to(self, moment: int | datetime, *, principal: Principal | None = None) -> RollbackReport:
        """Makes current again what was current at an epoch or a moment, in one step and without encoding.

        Documents added since are retired, deleted ones come back; erased ones do not. Who may read them stays as
        it is now, and documents beyond the principal's reach stay as they are.

        Args:
            moment: An epoch, or an aware datetime.
            principal: Who asks; see `rollback`.

        Raises as `rollback`.
        """
        rooms = self.rooms
        principal, scope = self._authorized(principal, "rollback")
        epoch = self._epoch(moment, "moment")
        with rooms.in_flight.answering():
            plan = rooms.catalog.rollback_plan(epoch)
            ids = [*(id for id, _ in plan.restore), *plan.retire]
            with refusals_recorded(rooms, principal):
                reached = {id for id in ids if self._versions_within(scope, id)}
            restore = [(id, version) for id, version in plan.restore if id in reached]
            retire = [id for id in plan.retire if id in reached]
            if restore or retire:
                rooms.audit.append(
                    payloads.version(
                        principal,
                        operation="rollback",
                        documents=[*restore, *((id, None) for id in retire)],
                        index_epoch=rooms.catalog.epoch + 1,
                        to_epoch=epoch,
                    )
                )
        if restore or retire:
            self._ingestor.rollback_all(restore, retire)
        return RollbackReport(epoch, rooms.catalog.epoch, len(restore), len(retire))

    # ------------------------------------------------------------ asking again

    def replay(self, event_id: str, *, principal: Principal | None = None) -> ReplayReport:
        """Runs a recorded search again, over the same versions and under the grants of who asked then.

        Today's access rules hold: what that principal may no longer read is missing, and the report says so.

        Args:
            event_id: `SearchResult.event_id` of the search.
            principal: Who replays. A governed index gives the right "replay" to nobody unless its policy does,
                and names only passages that the replayer may read.

        Returns:
            Whether ids, ranks and scores are the same, and every difference.

        Raises:
            AccessDenied: The policy refused the request; the refusal is recorded.
            InputError: There is no such search, or what it needs was erased.
            StoreError: It could not be recorded.
        """
        return replay(self.rooms, event_id, principal)

    # ------------------------------------------------------------ shared

    def _authorized(self, principal: Principal | None, action: str) -> tuple[Principal | None, AccessScope]:
        rooms = self.rooms
        who = RetrievalContext.of({"principal": principal}).principal
        with refusals_recorded(rooms, who):
            return who, rooms.policy.authorize(who, action)

    def _record(self, principal: Principal | None, scope: AccessScope, operation: str, **about: Any) -> None:
        detail = {"operation": operation, **about}
        self.rooms.audit.append(payloads.decision(principal, scope.decision, detail=detail))

    def _within(self, scope: AccessScope, id: str, *wanted: int | None) -> Standing | None:
        """A document whose newest ACL the scope meets, else None."""
        standing = self.rooms.catalog.standing(id, *wanted)
        with refusals_recorded(self.rooms, scope.principal):
            return standing if standing is not None and scope.allows(standing.access_key) else None

    def _versions_within(self, scope: AccessScope, id: str) -> list[VersionInfo]:
        """The versions of a document whose newest ACL the scope meets, else none."""
        standing = self._within(scope, id)
        return [] if standing is None else list(standing.versions)

    def _epoch(self, moment: int | datetime, field: str) -> int:
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            return self.rooms.catalog.epoch_at(moment)
        if isinstance(moment, int) and not isinstance(moment, bool) and moment >= 0:
            return moment
        raise InputError(
            f"is {moment!r}", field=field, remedy="Pass an epoch (a whole number) or a datetime with a time zone."
        )

    def _passages(self, document: StoredDocument) -> list[Passage]:
        catalog = self.rooms.catalog
        names = [passage_id(document.id, document.version, n) for n in range(document.info.passages)]
        found = catalog.passages(list(catalog.rows_by_passage_id(names).values()))
        # Of this very text: erased and added anew meanwhile, others may read what bears these names now.
        return [passage for passage in found if passage.content_sha256 == document.content_sha256]


def _ids(ids: Sequence[str]) -> list[str]:
    listed = isinstance(ids, Iterable) and not isinstance(ids, str | bytes)
    names = list(ids) if listed else []
    if not listed or not all(isinstance(name, str) and name for name in names):
        raise InputError("is not a list of document ids", field="ids", remedy='Write ids=["hr/leave"].')
    return names
