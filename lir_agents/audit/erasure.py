"""Forgetting: which erasable values go, and that their bytes go too. No leaf is touched."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

__all__ = ["drop_documents", "drop_private"]

CHUNK: Final = 200  # values per statement and alternatives per pattern


def drop_private(database: sqlite3.Connection, positions: Sequence[int]) -> int:
    """Removes what belongs to the callers of these events: sealed bodies and values without a subject."""
    return sum(
        database.execute("DELETE FROM erasable WHERE position=? AND subject IS NULL", (at,)).rowcount
        for at in positions
    )


def drop_documents(database: sqlite3.Connection, document_ids: Sequence[str], mentions: Sequence[str]) -> int:
    """Removes every value whose subject is one of these documents, and every stored value without a subject
    that names one of them or of `mentions`, whole."""
    removed = 0
    for some in _chunks(document_ids):
        marks = ",".join("?" * len(some))
        removed += database.execute(f"DELETE FROM erasable WHERE subject IN ({marks})", some).rowcount  # noqa: S608
    for some in _chunks([*document_ids, *mentions]):
        # A name counts where it stands alone: "a1" is named in "see a1." and not in "a12".
        names = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, some))})(?!\w)")
        rows = database.execute(
            "SELECT position, part, value FROM erasable WHERE subject IS NULL AND value NOT NULL"
        )
        found = [(at, part) for at, part, value in rows if _names(names, json.loads(value))]
        database.executemany("DELETE FROM erasable WHERE position=? AND part=?", found)
        removed += len(found)
    return removed


def _names(names: re.Pattern[str], value: Any) -> bool:
    return any(names.search(text) for text in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
