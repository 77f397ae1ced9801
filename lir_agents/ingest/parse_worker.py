"""The process that parses HTML and PDF: one request per line on standard input, one answer per line back.

It has a limit on memory, may write no file, and an audit hook (PEP 578) that refuses sockets and subprocesses:
the parsers do neither, and a hostile file shall not make them. Started by `parser`; ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lir_agents.errors import InputError
from lir_agents.ingest.html_text import html_to_text
from lir_agents.ingest.pdf_text import pdf_to_text
from lir_agents.ingest.safe_open import read_whole

__all__ = ["main"]

_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "ctypes.")
_FORMATS = {"html": html_to_text, "pdf": pdf_to_text}


def main(memory_bytes: int) -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints must not reach the answers
    import pypdf  # noqa: F401 - before the hook: imports may load C libraries
    import selectolax.lexbor  # noqa: F401

    _confine(memory_bytes)
    for line in sys.stdin:
        json.dump(_answer(json.loads(line)), answers)
        answers.write("\n")
        answers.flush()


def _confine(memory_bytes: int) -> None:
    if os.name == "posix":  # Windows has no such limits; the time limit holds there too
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_refuse)


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a parsed file tried {event}")


def _answer(request: dict[str, Any]) -> dict[str, str]:
    try:
        data = read_whole(Path(os.fsdecode(bytes.fromhex(request["path"]))), max_bytes=request["max_bytes"])
        title, text = _FORMATS[request["format"]](data, max_chars=request["max_chars"])
    except InputError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needs more memory than ingest.parse_memory_bytes allows"}
    except RecursionError:
        return {"error": "is nested too deep"}
    except OSError as error:
        return {"error": f"cannot be read: {error.strerror or error}"}
    return {"title": title, "text": text}


if __name__ == "__main__":
    main(int(sys.argv[1]))
