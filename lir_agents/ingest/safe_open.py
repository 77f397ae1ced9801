"""Opening files that somebody else put there: regular files only, never waiting, never more than was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from lir_agents.errors import InputError

__all__ = ["kind_of", "open_regular", "read_whole"]

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def kind_of(mode: int) -> str:
    """What kind of file a mode (`os.stat_result.st_mode`) says it is, in words."""
    return next((name for test, name in _KINDS if test(mode)), "of unknown kind")


def open_regular(path: Path) -> IO[bytes]:
    """Opens a regular file for reading bytes; pipes and devices are recognised before they are opened.

    Raises:
        InputError: It is not a regular file.
        OSError: It cannot be opened.
    """
    _require_regular(os.stat(path).st_mode)
    # Not blocking, and looked at again: what was a file a moment ago may have been replaced by a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _require_regular(os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def read_whole(path: Path, *, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`, whatever size it claims to have.

    Raises:
        InputError: It is larger, or not a regular file.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1) if os.fstat(file.fileno()).st_size <= max_bytes else None
    if data is None or len(data) > max_bytes:
        raise InputError(
            f"is larger than {max_bytes:,} bytes", field="file", remedy="Split it, or raise ingest.max_file_bytes."
        )
    return data


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"is {kind_of(mode)}, not a regular file", field="file", remedy="Give a regular file.")
