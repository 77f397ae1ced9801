"""Which encoder a vector came from: a digest over weights, vocabulary and settings. Needs no torch.

Covered is what changes the meaning of a vector. Left out is what only rounds it: device, precision, batch
size. An index made in bfloat16 on a server opens in float32 on a laptop (cosine between the two: see
`lir_agents.encoding.runtime`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["combine", "file_sha256", "weights_sha256"]

SCHEME = 1
"""Raised when the code below this line of the house changes vectors for the same weights and settings."""


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file; remembered within the process for as long as size and mtime stay the same."""
    stat = path.stat()
    return _file_sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_sha256(folder: Path) -> dict[str, str]:
    """Digests of every safetensors file below `folder`, by its path relative to the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def combine(parts: Mapping[str, Any]) -> str:
    """Hex sha256 over a JSON-able description, independent of the order of its keys."""
    canonical = json.dumps({"scheme": SCHEME, **parts}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
