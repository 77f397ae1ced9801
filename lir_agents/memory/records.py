"""What is kept of a conversation, and how it is written into a LangGraph store."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

from lir_agents.bounds import MAX_DEPTH
from lir_agents.errors import InputError
from lir_agents.types import Principal, ToolSignal, Turn

__all__ = ["Entry", "as_text", "clean", "digest", "entry_of_signal", "entry_of_turn", "plain", "principal_label"]

Kind = Literal["user", "assistant", "tool"]
_KINDS: Final = get_args(Kind)


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
        """Reads what `to_value` wrote. Raises KeyError, TypeError, ValueError or OverflowError on anything else."""
        kind, confidence, output = value["kind"], float(value.get("confidence", 1.0)), value.get("output")
        if kind not in _KINDS or not 0.0 <= confidence <= 1.0:
            raise ValueError("memory did not write this entry")
        if output is not None and not isinstance(output, Mapping):
            raise ValueError("memory did not write this entry")
        if isinstance(value["passage_ids"], str):
            raise TypeError("passage_ids is one string")
        entry = cls(
            kind=kind,
            text=str(value["text"]),
            passage_ids=tuple(map(str, value["passage_ids"])),
            at=datetime.fromtimestamp(float(value["at"]), UTC),
            expires=datetime.fromtimestamp(float(value["expires"]), UTC),
            tool=str(value.get("tool", "")),
            output=output,
            confidence=confidence,
            error=str(value.get("error", "")),
            key=key,
        )
        if kind == "tool":
            try:
                _ = entry.signal
            except InputError as error:  # not an input of whoever asks
                raise ValueError("memory did not write this entry") from error
        return entry


def entry_of_turn(turn: Turn, *, at: datetime, expires: datetime, max_chars: int) -> Entry:
    """A turn as it is kept."""
    named = tuple(clean(name) for name in turn.passage_ids)
    return Entry(turn.role, clean(turn.text[:max_chars]), named, at, expires)


def entry_of_signal(signal: ToolSignal, *, at: datetime, expires: datetime, max_chars: int) -> Entry:
    """A tool's answer as it is kept. Fields are kept whole where they fit, else as text that is cut."""
    output = None if isinstance(signal.output, str) else plain(signal.output)
    text = clean(signal.output) if isinstance(signal.output, str) else as_text(output)
    return Entry(
        kind="tool",
        text=text[:max_chars],
        passage_ids=(),
        at=at,
        expires=expires,
        tool=clean(signal.tool),
        output=output if isinstance(output, dict) and len(text) <= max_chars else None,
        confidence=signal.confidence,
        error=clean(signal.error[:max_chars]),
    )


_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""NUL as JSON writes it, and not a backslash before the five characters u0000."""


def clean(text: str) -> str:
    """Without lone surrogates, which no store, tokenizer or JSON reader takes, and NUL, which Postgres does not."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def plain(value: Any) -> Any:
    """JSON data of whatever a tool gave: objects become text, NaN and infinities None.

    Text where it is no data, and where it is nested deeper than the audit log and stores take: a tool's answer must
    cost nobody the search, nor, by what it makes fail, the memory of others.
    """
    try:
        text = _NUL.sub(r"\1\\ufffd", clean(json.dumps(value, default=str, ensure_ascii=False)))
        data = json.loads(text, parse_constant=lambda _: None, parse_int=_integer)
    except Exception:  # noqa: BLE001 - strange keys, circles, bottomless nesting, objects that raise what they like
        return clean(repr(type(value)))
    return data if _shallow(data) else text


def as_text(data: Any) -> str:
    """What `plain` made, as text: what is text already as it is, anything else as JSON."""
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


def _shallow(data: Any) -> bool:
    level = [data] if isinstance(data, dict | list) else []
    for _ in range(MAX_DEPTH):
        children = (child for item in level for child in (item.values() if isinstance(item, dict) else item))
        level = [child for child in children if isinstance(child, dict | list)]
    return not level


def _integer(digits: str) -> int | str:
    """Stores hold integers of 64 bits; larger ones are kept as text, exactly."""
    return int(digits) if len(digits) < 19 else digits


def digest(*parts: str) -> str:
    """A namespace label that holds any name: store namespaces allow no dots, and names must not be readable."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def principal_label(principal: Principal | None) -> str:
    """Tenant and principal, apart from everybody else's."""
    return digest("", "") if principal is None else digest(principal.tenant, principal.id, "principal")
