"""JSONL: one document per line, read one line at a time, however long the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from lir_agents.errors import InputError
from lir_agents.ingest.adapters import convert
from lir_agents.ingest.normalise import decode_text
from lir_agents.reports import Failure
from lir_agents.types import Document

__all__ = ["read_jsonl"]

_CHUNK_BYTES = 1 << 20


def read_jsonl(file: IO[bytes], name: str, *, longest_line_bytes: int) -> Iterator[Document | Failure]:
    """Reads documents with the fields `id` or `_id`, `text`, `title`, `source`, `source_uri` or `url`, `acl` and
    `metadata`; an ACL may also stand in the metadata.

    Args:
        file: Open for reading bytes.
        name: How the file is called in failures.
        longest_line_bytes: Longer lines are passed over in pieces and reported.

    Yields:
        A document for each line, or a failure named `name:line`. Blank lines are passed over.
    """
    number = 0
    while line := file.readline(longest_line_bytes + 1):
        number += 1
        if len(line) > longest_line_bytes:
            while not line.endswith(b"\n") and (line := file.readline(_CHUNK_BYTES)):
                pass
            yield Failure(f"{name}:{number}", f"the line is longer than {longest_line_bytes:,} bytes")
        elif line.strip():
            yield _document(line, name, number)


def _document(line: bytes, name: str, number: int) -> Document | Failure:
    try:
        value = json.loads(decode_text(line))
        if not isinstance(value, dict):
            raise InputError(f"is {type(value).__name__}", field="line", remedy="Write one JSON object per line.")
        document = convert(value)
    except RecursionError:
        return Failure(f"{name}:{number}", "the JSON is nested too deep")
    except InputError as error:
        return Failure(f"{name}:{number}", str(error))
    except ValueError as error:  # json.JSONDecodeError, or a number of thousands of digits
        return Failure(f"{name}:{number}", f"not JSON: {error}")
    return document
