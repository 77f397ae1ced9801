"""What memory keeps of an entry once documents are erased."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lir_agents.stores.records import parse_passage_id

__all__ = ["Erased"]


class Erased:
    """Documents that are gone, as they may be named: by id, by a passage's id, or in passing.

    Args:
        names: Ids of the documents.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        # A name counts where it stands alone, as in the audit log: "a1" is named in "see a1." and not in "a12".
        self._said = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(names)))})(?!\w)")

    def left_of(self, value: dict[str, Any]) -> dict[str, Any] | None:
        """The entry's value without the documents: the same object where it names none, None where it goes."""
        shown = value.get("passage_ids")
        named = shown if isinstance(shown, list) else []
        if self._said_in({key: item for key, item in value.items() if key != "passage_ids"}):
            return None
        if not any(self._has(name) for name in named):
            return value
        if value.get("kind") != "user":
            return None
        return {**value, "passage_ids": [name for name in named if not self._has(name)]}

    def _has(self, name: Any) -> bool:
        parsed = parse_passage_id(name) if isinstance(name, str) else None
        return name in self._names or (parsed is not None and parsed[0] in self._names)

    def _said_in(self, value: Any) -> bool:
        if isinstance(value, str):
            return bool(self._names) and self._said.search(value) is not None
        if isinstance(value, Mapping):
            return any(self._said_in(item) for pair in value.items() for item in pair)
        return isinstance(value, list) and any(self._said_in(item) for item in value)
