"""Reading the files of the evaluation layout, line by line, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lir_agents.errors import InputError

__all__ = ["Judgements", "read_json", "read_jsonl", "read_qrels", "split_names"]

Judgements = Mapping[str, Mapping[str, int]]
"""Relevance by query id and document id: `qrels["q1"]["d7"] == 2`."""

LAYOUT = "The layout is corpus.jsonl, queries.jsonl, qrels/<split>.tsv and, optionally, dataset.json."


def damaged(path: Path, line: int, what: str, remedy: str = "Repair or regenerate the file.") -> InputError:
    """An error about one line of a file; `line` starts at 1, 0 means the whole file."""
    place = f"{path.name} line {line}" if line else path.name
    return InputError(f"{place}: {what}", field="dataset", remedy=remedy)


def _open(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from enumerate(lines, start=1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", field="dataset", remedy=LAYOUT) from None
    except UnicodeDecodeError as error:
        raise damaged(path, 0, f"is not UTF-8 ({error.reason} at byte {error.start} of a block)") from error
    except OSError as error:
        raise damaged(path, 0, f"cannot be read ({error.strerror})", remedy="Check its permissions.") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) for each line that is not blank; every object has a string `_id`.

    Raises:
        InputError: A line is no JSON object, or lacks `_id`.
    """
    for number, line in _open(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise damaged(path, number, f"is not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(value, dict) or not isinstance(value.get("_id"), str) or not value["_id"]:
            raise damaged(path, number, 'wants an object with a non-empty string "_id"')
        yield number, value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; an absent file is an empty one, as plain BEIR folders carry none.

    Raises:
        InputError: The file is no JSON object.
    """
    if not path.exists():
        return {}
    text = "".join(line for _, line in _open(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(path, error.lineno, f"is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise damaged(path, 0, "wants a JSON object")
    return value


def split_names(folder: Path) -> list[str]:
    """Names of the splits that a dataset folder has judgements for, sorted.

    Raises:
        InputError: The folder is not in the layout.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", field="dataset", remedy=LAYOUT)
    names = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if not names:
        raise InputError(f"{folder} has no qrels/<split>.tsv", field="dataset", remedy=LAYOUT)
    return names


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Reads `query-id <tab> corpus-id <tab> score`, with a header line; scores are whole numbers.

    Raises:
        InputError: A line has other columns, a score that is no whole number, or judges a pair a second time
            and differently.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _open(path):
        row = line.rstrip("\r\n").split("\t")
        if row == [""] or (number == 1 and row[:2] == ["query-id", "corpus-id"]):
            continue
        if len(row) != 3 or not row[0] or not row[1]:
            raise damaged(path, number, "wants three tab-separated columns: query-id, corpus-id, score")
        query, document, score = row
        try:
            value = int(score)
        except ValueError:
            raise damaged(path, number, f"score {score!r} is not a whole number") from None
        if qrels.setdefault(query, {}).setdefault(document, value) != value:
            raise damaged(path, number, f"judges {document!r} for {query!r} a second time, and differently")
    return qrels
