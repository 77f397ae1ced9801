"""What of this process lies in memory, from Linux's own account of its mappings."""

from __future__ import annotations

from pathlib import Path

_MAPS = Path("/proc/self/smaps")


def resident() -> dict[str, int]:
    """Resident bytes: all, those of no file (the heap), and those of the token store's file, shared and own.

    Raises:
        RuntimeError: This system keeps no such account.
    """
    if not _MAPS.is_file():
        raise RuntimeError("memory is measured on Linux only: there is no /proc/self/smaps here")
    found = dict.fromkeys(("all", "heap", "tokens", "tokens, own copies"), 0)
    of_tokens = False
    for line in _MAPS.read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            of_tokens = "tokens.lmdb" in line and line.endswith(".mdb")
        elif name == "Rss:":
            found["all"] += _bytes(rest)
            found["tokens"] += _bytes(rest) if of_tokens else 0
        elif name == "Anonymous:":
            found["heap"] += _bytes(rest)
            found["tokens, own copies"] += _bytes(rest) if of_tokens else 0
    return found


def _bytes(rest: list[str]) -> int:
    return int(rest[0]) * 1024
