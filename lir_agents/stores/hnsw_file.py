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

import numpy as np

__all__ = ["blank_unused", "damage"]

_HEADER: Final = struct.Struct("<iQQQQ")  # version, offset of level 0, room, elements, bytes per element
_OFFSETS: Final = struct.Struct("<QQ")  # behind it: where in an element its label lies, and its vector
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


def damage(home: Path) -> str:
    """What is wrong with the indexes under a Chroma directory, in words; empty where nothing shows.

    Looked at are sizes and the links of the lowest level: one that leads beyond the elements makes Chroma read
    memory that is not its own.
    """
    for file in home.glob("*/header.bin"):
        content, data = file.read_bytes(), file.with_name("data_level0.bin")
        if len(content) < _HEADER.size + _OFFSETS.size:
            return "the header of the HNSW index is cut short"
        version, _, room, elements, element_bytes = _HEADER.unpack_from(content)
        label, vector = _OFFSETS.unpack_from(content, _HEADER.size)
        if version != _VERSION or elements > room or not 4 < vector < label < element_bytes:
            return "the header of the HNSW index makes no sense"
        if not data.is_file() or data.stat().st_size < elements * element_bytes:
            return "the HNSW index is cut short"
        if elements and not _links_hold(data, elements, element_bytes, vector):
            return "the links of the HNSW index lead nowhere"
    return ""


def _links_hold(data: Path, elements: int, element_bytes: int, vector: int) -> bool:
    table = np.memmap(data, np.uint8, mode="r")[: elements * element_bytes].reshape(elements, element_bytes)
    words = np.ascontiguousarray(table[:, : vector - vector % 4]).view("<u4")
    counts, links = words[:, 0] & 0xFFFF, words[:, 1:]  # the upper half of the count marks deleted elements
    used = np.arange(links.shape[1]) < counts[:, None]
    return bool((counts <= links.shape[1]).all() and (links[used] < elements).all())


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
