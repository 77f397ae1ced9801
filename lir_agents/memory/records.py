"""What is kept of a conversation, and how it is written into a LangGraph store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from lir_agents.types import Principal, ToolSignal, Turn

__all__ = ["Entry", "digest", "entry_of_signal", "entry_of_turn", "principal_label"]

Kind = Literal["user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was said, by a person, an agent or a tool.

    Attributes:
        kind: Who said it.
        text: What was said, cut to the settings' `max_chars`.
        passage_ids: For a user's turn, the passages it was shown; else, the passages the text was learned from.
        at: When, UTC.
        expires: When it is forgotten by itself, UTC.
        tool: The tool's name.
        output: The tool's fields, where it answered in fields.
        confidence: How far the tool is to be trusted, in [0, 1].
        error: Why the tool failed.
        key: Its key in the store: ordered by time, unique among concurrent writers.
    """

    kind: Kind
    text: str
    passage_ids: tuple[str, ...]
    at: datetime
    expires: datetime
    tool: str = ""
    output: Mapping[str, Any] | None = None
    confidence: float = 1.0
    error: str = ""
    key: str = field(default="", compare=False)

    @property
    def turn(self) -> Turn:
        """As a turn of a history."""
        return Turn(self.kind, self.text, self.passage_ids)

    @property
    def signal(self) -> ToolSignal:
        """As a tool's answer; only for entries of kind "tool"."""
        return ToolSignal(self.tool, self.text if self.output is None else self.output, self.confidence, self.error)

    def to_value(self) -> dict[str, Any]:
        """Plain JSON data, as stores want it."""
        value: dict[str, Any] = {
            "kind": self.kind,
            "text": self.text,
            "passage_ids": list(self.passage_ids),
            "at": self.at.timestamp(),
            "expires": self.expires.timestamp(),
        }
        if self.kind == "tool":
            output = None if self.output is None else dict(self.output)
            value |= {"tool": self.tool, "output": output, "confidence": self.confidence, "error": self.error}
        return value

    @classmethod
    def from_value(cls, key: str, value: Mapping[str, Any]) -> Entry:
        """Reads what `to_value` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            kind=value["kind"],
            text=str(value["text"]),
            passage_ids=tuple(str(name) for name in value["passage_ids"]),
            at=datetime.fromtimestamp(float(value["at"]), UTC),
            expires=datetime.fromtimestamp(float(value["expires"]), UTC),
            tool=str(value.get("tool", "")),
            output=value.get("output"),
            confidence=float(value.get("confidence", 1.0)),
            error=str(value.get("error", "")),
            key=key,
        )


def entry_of_turn(turn: Turn, *, at: datetime, expires: datetime, max_chars: int) -> Entry:
    """A turn as it is kept."""
    return Entry(turn.role, turn.text[:max_chars], tuple(turn.passage_ids), at, expires)


def entry_of_signal(signal: ToolSignal, *, at: datetime, expires: datetime, max_chars: int) -> Entry:
    """A tool's answer as it is kept. Fields are kept whole where they fit, else as text that is cut."""
    fields = None if isinstance(signal.output, str) else json.dumps(signal.output, default=str, ensure_ascii=False)
    text = signal.output if isinstance(signal.output, str) else fields or ""
    return Entry(
        kind="tool",
        text=text[:max_chars],
        passage_ids=(),
        at=at,
        expires=expires,
        tool=signal.tool,
        output=json.loads(fields) if fields is not None and len(fields) <= max_chars else None,
        confidence=signal.confidence,
        error=signal.error,
    )


def digest(*parts: str) -> str:
    """A namespace label that holds any name: store namespaces allow no dots, and names must not be readable."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def principal_label(principal: Principal | None) -> str:
    """Tenant and principal, apart from everybody else's."""
    return digest("", "") if principal is None else digest(principal.tenant, principal.id, "principal")
