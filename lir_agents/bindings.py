"""How run-time facts speak of documents: fields of tools' answers, and the documents' own metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lir_agents.errors import InputError

__all__ = ["MetadataSignal", "ToolBinding"]


@dataclass(frozen=True, slots=True)
class ToolBinding:
    """How a field of a tool's output speaks of documents.

    Args:
        tool: The tool's name.
        field: The field of its output, dotted for nested ones.
        metadata_key: The document metadata that the field's value is compared with.
        mode: "boost" adds evidence to documents whose metadata equals the value; "require" drops the others.
    """

    tool: str
    field: str
    metadata_key: str
    mode: Literal["boost", "require"] = "boost"

    def __post_init__(self) -> None:
        for name in ("tool", "field", "metadata_key"):
            _require_name(getattr(self, name), f"binding.{name}")
        if self.mode not in ("boost", "require"):
            raise InputError(f"is {self.mode!r}", field="binding.mode", remedy='Use "boost" or "require".')


@dataclass(frozen=True, slots=True)
class MetadataSignal:
    """What a document's own metadata says for it, whatever is asked: that it is recent, or of a preferred kind.

    Exactly one of `half_life_days` and `prefer` is given.

    Args:
        metadata_key: The metadata looked at. A document that lacks it gains nothing.
        half_life_days: The value is a point in time: seconds since 1970, or ISO 8601 text in UTC ("2026-11-22" or
            "2026-11-22T10:00:00Z"). A document of now gains `strength`, one of a half-life ago half of it, and so
            on, in steps of half a half-life; after four half-lives nothing. The future counts as now.
        prefer: Documents whose value equals one of these gain `strength`.
        strength: The most that it adds, in units of the score, in (0, 3]: the turn's own signals spread about 3.

    Raises:
        InputError: The key is empty, both or neither of the two are given, or a number is out of range.
    """

    metadata_key: str
    half_life_days: float | None = None
    prefer: Sequence[str | float | bool] = ()
    strength: float = 0.5

    def __post_init__(self) -> None:
        _require_name(self.metadata_key, "signal.metadata_key")
        if isinstance(self.prefer, str) or (self.half_life_days is None) == (not self.prefer):
            raise InputError(
                f"are {self.half_life_days!r} and {self.prefer!r}",
                field="signal.half_life_days and signal.prefer",
                remedy="Give a number of days, or a list of values: one of the two.",
            )
        if self.half_life_days is not None and not (math.isfinite(self.half_life_days) and self.half_life_days > 0):
            raise InputError(
                f"is {self.half_life_days!r}",
                field="signal.half_life_days",
                remedy="Use a positive number of days.",
            )
        if not 0 < self.strength <= 3:
            raise InputError(f"is {self.strength!r}", field="signal.strength", remedy="Use a number in (0, 3].")
        object.__setattr__(self, "prefer", tuple(self.prefer))  # what an order depends on does not change

    @property
    def label(self) -> str:
        """Its part of the breakdown."""
        return f"metadata:{self.metadata_key}"


def _require_name(value: str, field: str) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"is {value!r}", field=field, remedy="Pass a name.")
