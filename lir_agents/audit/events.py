"""What an event is, before and after it is recorded.

The bytes of a leaf are canonical JSON with these keys, sorted::

    clock      what the wall clock said, UTC           principal  who acted
    kind       one of `KINDS`                          sealed     commitment of the sealed body, or null
    nonce      16 random bytes in hex                  tenant     the principal's tenant
    payload    see `lir_agents.audit.payloads`         time       max(clock, time of the event before)
                                                       v          1

`time` orders the log and never goes backwards; `clock` keeps what was really read; `nonce` makes equal events
differ and their ids impossible to guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from lir_agents.audit.canonical import COMMITMENT, PART, Erasable, Part, canonical, make_part, separate, storable
from lir_agents.audit.merkle import leaf_hash
from lir_agents.errors import InputError

__all__ = [
    "KINDS",
    "SEARCHES",
    "AuditEvent",
    "Kind",
    "Prepared",
    "RecordedEvent",
    "commitments",
    "prepare",
    "utc",
    "utc_us",
]

Kind = Literal[
    "ingest",
    "version",
    "redaction",
    "decision",
    "retrieval",
    "tool_call",
    "memory_write",
    "erasure",
    "configuration",
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
SEARCHES: Final = frozenset({"retrieval", "decision", "tool_call", "memory_write"})
"""Kinds that a search waits for; all others change the index."""
SEALED_PART: Final = 0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that happened, not yet recorded.

    Args:
        kind: What happened.
        principal_id: Who acted; "" where nobody was named.
        tenant: The principal's tenant.
        payload: JSON data; wrap in `Erasable` whatever may have to be forgotten.
    """

    kind: Kind
    principal_id: str = ""
    tenant: str = ""
    payload: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"is {self.kind!r}", field="event.kind", remedy=f"Use one of {', '.join(KINDS)}.")
        storable(self.principal_id, field="event.principal_id")
        storable(self.tenant, field="event.tenant")


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event of the log. `payload` has erasable values in place, or ``{"$erased": commitment}``.

    Attributes:
        event_id: The first 16 bytes of the leaf hash in hex: an id vouches for the event's content.
        position: Number of the leaf, from 0.
        time: UTC, ISO 8601 with microseconds; never earlier than that of the event before.
        clock: What the wall clock said.
        sealed: "none", "present" or "erased".
        leaf: Leaf hash in hex.
        body: The canonical JSON that was hashed.
    """

    event_id: str
    position: int
    kind: str
    principal_id: str
    tenant: str
    time: str
    clock: str
    payload: Mapping[str, Any]
    sealed: Literal["none", "present", "erased"]
    leaf: str
    body: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event that only lacks its time: validated, serialised, committed to."""

    event: AuditEvent
    payload: str
    sealed: str | None
    parts: tuple[Part, ...]
    nonce: str

    def leaf(self, clock_us: int, time_us: int) -> tuple[str, bytes]:
        """The canonical JSON of the leaf and its hash. Times in microseconds since 1970, UTC."""
        event = self.event
        body = (
            f'{{"clock":"{utc(clock_us)}","kind":"{event.kind}","nonce":"{self.nonce}","payload":{self.payload},'
            f'"principal":{canonical(event.principal_id)},"sealed":{canonical(self.sealed)},'
            f'"tenant":{canonical(event.tenant)},"time":"{utc(time_us)}","v":1}}'
        )
        return body, leaf_hash(body.encode())


def prepare(event: AuditEvent, sealed: Mapping[str, Any] | None) -> Prepared:
    """Does all work that needs no lock.

    Raises:
        InputError: The payload or the sealed body is not JSON; the message names the field.
    """
    payload, parts = separate(event.payload)
    nonce = os.urandom(16).hex()
    if sealed is None:
        return Prepared(event, payload, None, tuple(parts), nonce)
    body = make_part(SEALED_PART, Erasable(dict(sealed)), field="sealed")
    return Prepared(event, payload, body.commitment, (body, *parts), nonce)


def utc(time_us: int) -> str:
    """Microseconds since 1970 as ISO 8601, UTC."""
    return f"{(_EPOCH + timedelta(microseconds=time_us)).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def utc_us(moment: datetime, *, field: str) -> int:
    """An aware datetime as microseconds since 1970.

    Raises:
        InputError: It is no datetime, or has no time zone.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InputError("is no datetime with a time zone", field=field, remedy="Pass datetime(..., tzinfo=UTC).")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def commitments(content: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Every commitment of a leaf with its part number."""
    if content.get("sealed") is not None:
        yield SEALED_PART, content["sealed"]
    pending = [content.get("payload")]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if COMMITMENT in value:
                yield value[PART], value[COMMITMENT]
            else:
                pending += value.values()
        elif isinstance(value, list):
            pending += value
