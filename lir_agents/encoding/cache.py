"""A folder of files made once per machine: found whole, or not at all.

Each entry is a folder with the digests of its files beside them. It is written elsewhere and renamed into
place, so two processes that make the same entry cannot mix theirs; one that is damaged counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "publish", "recall"]

_RECORD = "record.json"


def cache_folder() -> Path:
    """Where this package keeps what it can make again: LIR_CACHE_DIR, or the user's cache folder."""
    own = os.environ.get("LIR_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "lir-agents"


def recall(entry: Path) -> dict[str, Any] | None:
    """The record of an entry, or None where it is missing or any of its files is not what was written."""
    try:
        written = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
        whole = all(_sha256(entry / name) == digest for name, digest in written["files"].items())
        record = written["record"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole and isinstance(record, dict) else None


def publish(entry: Path, record: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Makes an entry, in place of a damaged one if there is one.

    Args:
        entry: The folder to be.
        record: JSON-able; what `recall` gives back.
        write: Writes the entry's files into the folder it is given.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".new-", ignore_cleanup_errors=True) as work:
        new = Path(work, "new")
        new.mkdir()
        write(new)
        files = {path.name: _sha256(path) for path in sorted(new.iterdir())}
        (new / _RECORD).write_text(json.dumps({"files": files, "record": record}, indent=1), encoding="utf-8")
        if entry.exists():
            if recall(entry) is not None:  # another process was faster
                return
            shutil.move(entry, Path(work, "damaged"))
        try:
            new.rename(entry)
        except OSError:
            if recall(entry) is None:
                raise


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
