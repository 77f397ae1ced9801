"""Chroma's HNSW file, as far as it must not hold what it holds.

A small index is written with room for 100 vectors when it is made, and again at the first use after it was opened
(chromadb 1.5.9), and the room is whatever lay in the process's memory just then: text of another tenant, or what
was just erased or redacted. The room is overwritten with zeros; Chroma never reads it (it reads as many elements as
the header counts).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

__all__ = ["blank_unused"]

_HEADER: Final = struct.Struct("<iQQQQ")  # version, offset of level 0, room, elements, bytes per element
_VERSION: Final = 1


def blank_unused(home: Path) -> None:
    """Overwrites the room for vectors that are not there yet, in every index under a Chroma directory.

    To be called while nothing else writes to it.

    Raises:
        OSError: A file cannot be read or written.
    """
    for file in home.glob("*/header.bin"):
        content, data = file.read_bytes(), file.with_name("data_level0.bin")
        if len(content) < _HEADER.size or not data.is_file():
            continue
        version, _, _, elements, element_bytes = _HEADER.unpack_from(content)
        if version == _VERSION:
            _blank(data, elements * element_bytes)


def _blank(file: Path, start: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(start)
        room = stream.read()
        if room.count(0) == len(room):
            return
        stream.seek(start)
        stream.write(bytes(len(room)))
        stream.flush()
        os.fsync(stream.fileno())
