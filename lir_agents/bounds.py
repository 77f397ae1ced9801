"""How deep and how large a value may be that is written down: in the audit log, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lir_agents.errors import InputError

__all__ = ["MAX_DEPTH", "MAX_INT_BITS", "require_writable"]

MAX_DEPTH: Final = 64
"""Levels of nesting that are written down, in the log and in memory."""

MAX_INT_BITS: Final = 4096
"""Larger integers are refused where they would be written down: beyond 4,300 digits Python writes none."""

_Path = tuple["_Path", object] | tuple[None, str]
"""The way to a value: the way to what holds it, and its key or position there, None where that has no name; it
begins with a name."""


def require_writable(value: Any, name: str) -> None:
    """Refuses an integer beyond `MAX_INT_BITS`, however deep it lies; what holds itself is looked at once."""
    pending: list[tuple[Any, _Path]] = [(value, (None, name))]
    seen: dict[int, Any] = {}  # with the values: a number is given anew once nobody holds what had it
    while pending:
        item, path = pending.pop()
        if isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
            raise InputError(
                f"is an integer beyond {MAX_INT_BITS} bits", field=_written(path), remedy="Pass it as a string."
            )
        if not isinstance(item, Mapping | list | tuple | set | frozenset) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Mapping):
            pending += [(key, path) for key in item]
            pending += [(child, (path, key if isinstance(key, str) else None)) for key, child in item.items()]
        else:
            pending += [(child, (path, at)) for at, child in enumerate(item)]


def _written(path: _Path) -> str:
    """`name.key[position]`. Only where something is refused: written along the way, depth would cost its square."""
    steps: list[str] = []
    while path[0] is not None:
        path, step = path
        steps.append(f".{step}" if isinstance(step, str) else f"[{step}]" if step is not None else "")
    return path[1] + "".join(reversed(steps))
