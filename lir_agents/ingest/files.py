"""Files and folders as documents, one at a time.

A document's id is its path relative to what was named, with `/` between the parts, and so is its `source_uri`:
an index can be moved, a folder too, and neither tells its readers how somebody's disk is laid out. `source` is
the name of the folder or file that was named.

What is read: Markdown, plain text, reStructuredText, HTML, PDF and JSONL files; folders, recursively and sorted;
a folder in the evaluation layout (it holds `corpus.jsonl`), of which only the corpus is read. A file that should
be readable and is not becomes a `Failure`. What no one asked for by name and cannot be a document (hidden files,
unknown suffixes, pipes and devices, links that leave the folder) is passed over and told to `on_skip`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from lir_agents.config import IngestSettings
from lir_agents.errors import InputError
from lir_agents.ingest.jsonl import read_jsonl
from lir_agents.ingest.markdown import read_markdown
from lir_agents.ingest.normalise import decode_text
from lir_agents.ingest.parser import Parser
from lir_agents.ingest.safe_open import kind_of, open_regular, read_whole
from lir_agents.reports import Failure
from lir_agents.types import Document

__all__ = ["SUFFIXES", "OnSkip", "read_sources"]

Format = Literal["markdown", "text", "html", "pdf", "jsonl"]

SUFFIXES: Final[dict[str, Format]] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""What a file is read as, by its suffix in lower case."""

OnSkip = Callable[[str, str], None]
"""Told the name of what was passed over, and why."""

_CORPUS: Final = "corpus.jsonl"


def read_sources(
    paths: Iterable[str | Path], *, settings: IngestSettings | None = None, on_skip: OnSkip | None = None
) -> Iterator[Document | Failure]:
    """Reads files and folders, lazily: memory holds one document at a time.

    Args:
        paths: Files and folders; a link named here is followed.
        settings: Bounds on sizes, times and memory.
        on_skip: Called for each thing that is passed over.

    Yields:
        A document, or a failure with its reason. Two files that would have the same id are a failure of the
        later one, so that neither replaces the other.
    """
    roots = [Path(path) for path in paths]
    bounds = settings or IngestSettings()
    with Parser(bounds) as parser:
        reader = _Reader(bounds, parser, on_skip or _ignore, several=len(roots) > 1)
        for root in roots:
            yield from reader.read(root)


def _ignore(_name: str, _reason: str) -> None:
    """Nobody asked what is passed over."""


@dataclass(slots=True)
class _Reader:
    settings: IngestSettings
    parser: Parser
    on_skip: OnSkip
    several: bool  # sources; one alone cannot give an id twice, and its ids need not be remembered
    ids: dict[str, str] = field(default_factory=dict)  # id to real path

    def read(self, root: Path) -> Iterator[Document | Failure]:
        try:
            folder = root.is_dir()
            if not folder:
                os.stat(root)
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
            yield Failure(repr(str(root))[1:-1], _words(error))
            return
        source = _printable(root.resolve().name)
        if folder:
            yield from self._folder(root, source)
        else:
            yield from self._file(root, _printable(root.name), source)

    def _folder(self, root: Path, source: str) -> Iterator[Document | Failure]:
        """Depth first and sorted; a stack of its own, so that no depth of folders exhausts Python's."""
        real_root = os.path.realpath(root)
        stack = [root]
        while stack:
            path = stack.pop()
            name = _printable(path.relative_to(root).as_posix())
            try:
                if path != root and (reason := _unwanted(path, real_root)):
                    self.on_skip(name, reason)
                elif path.is_dir():
                    with os.scandir(path) as entries:
                        names = sorted((entry.name for entry in entries), reverse=True)
                    stack += [path / name for name in ([_CORPUS] if _CORPUS in names else names)]
                else:
                    yield from self._file(path, name, source)
            except OSError as error:
                yield Failure(name, _words(error))

    def _file(self, path: Path, id: str, source: str) -> Iterator[Document | Failure]:
        """The document of a file, or those of a JSONL file, or why there is none."""
        kind = SUFFIXES.get(path.suffix.lower())
        try:
            if kind is None:
                raise InputError(
                    f"cannot be read: {_unknown(path)}", field="file", remedy=f"Known are {', '.join(SUFFIXES)}."
                )
            if kind != "jsonl":  # whose documents name themselves
                self._claim(id, os.path.realpath(path))
            if kind == "jsonl":
                longest = min(self.settings.max_file_bytes, 6 * self.settings.max_document_chars + (1 << 20))
                with open_regular(path) as file:
                    for found in read_jsonl(file, id, longest_line_bytes=longest):
                        yield found if isinstance(found, Failure) or found.source else replace(found, source=source)
            else:
                yield self._document(path, id, source, kind)
        except InputError as error:
            yield Failure(id, str(error))
        except OSError as error:
            yield Failure(id, _words(error))

    def _claim(self, id: str, real_path: str) -> None:
        if self.several and (earlier := self.ids.setdefault(id, real_path)) != real_path:
            raise InputError(
                f"would have the same id as {_printable(earlier)}",
                field="file",
                remedy="Name the folder that holds both.",
            )

    def _document(self, path: Path, id: str, source: str, kind: Format) -> Document:
        metadata: dict[str, Any] = {}
        title = ""
        if kind == "html" or kind == "pdf":
            title, text = self.parser.parse(path, kind)
        else:
            text = decode_text(read_whole(path, max_bytes=self.settings.max_file_bytes))
            if kind == "markdown":
                text, title, metadata = read_markdown(text)
        return Document(
            text=text,
            id=id,
            title=title or re.sub(r"[\s_-]+", " ", _printable(path.stem)).strip(),
            source_uri=quote(id),
            source=source,
            metadata=metadata,
        )


def _unwanted(path: Path, real_root: str) -> str:
    """Why something found in a folder is passed over; "" if it is not."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(real_root):
            return "a symbolic link that leaves the folder"
        if not os.path.exists(real):
            return "a symbolic link to nothing"
        if os.path.isdir(real):
            return "a symbolic link to a folder"
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return ""
    if not stat.S_ISREG(mode):
        return kind_of(mode)
    return "" if path.suffix.lower() in SUFFIXES else _unknown(path)


def _unknown(path: Path) -> str:
    return f"no reader for {_printable(path.suffix)}" if path.suffix else "no suffix to tell what it is"


def _printable(name: str) -> str:
    """A path as text: bytes that are not UTF-8 and control characters are written as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda char: f"\\x{ord(char.group()):02x}", text)


def _words(error: OSError | ValueError) -> str:
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
