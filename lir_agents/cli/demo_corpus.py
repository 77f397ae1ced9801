"""A real corpus that every machine has: the Python language reference and the standard library's docstrings.

Nothing of the standard library is imported for it: sources are parsed, so that no module's side effects run.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from lir_agents.types import Document

__all__ = ["MODULES", "demo_documents", "language_reference", "module_docstrings"]

_LEFT_OUT = {"compound", "specialnames", "debugger"}
"""Topics that repeat the smaller ones in full, and one that is a manual of its own."""

_SHORTEST = 60
"""Docstrings below this many characters say nothing that the name does not."""

MODULES = (
    *("argparse", "asyncio.locks", "asyncio.queues", "asyncio.runners", "asyncio.streams", "asyncio.taskgroups"),
    *("asyncio.tasks", "asyncio.timeouts", "bisect", "collections", "concurrent.futures._base"),
    *("concurrent.futures.process", "concurrent.futures.thread", "contextlib", "copy", "csv", "dataclasses"),
    *("difflib", "enum", "fnmatch", "functools", "glob", "gzip", "heapq", "io", "json", "logging"),
    *("logging.handlers", "os", "pathlib", "pprint", "queue", "random", "sched", "secrets", "selectors"),
    *("shelve", "shlex", "shutil", "signal", "socket", "statistics", "string", "subprocess", "tempfile"),
    *("textwrap", "threading", "timeit", "traceback", "typing", "urllib.parse", "uuid", "weakref", "zipfile"),
)
"""Modules that are read; one that this Python lacks is passed over."""


def demo_documents() -> Iterator[Document]:
    """Every document of the demo: a few hundred, in a fixed order."""
    yield from language_reference()
    for entry in MODULES:
        yield from module_docstrings(entry)


def language_reference() -> Iterator[Document]:
    """The chapters that `help("topic")` shows, one document each."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        if name not in _LEFT_OUT and len(text) >= _SHORTEST:
            title, _, body = text.strip().partition("\n")
            yield Document(
                body.lstrip("*=-\n"),
                id=f"reference/{name}",
                title=title.strip('"'),
                source="Python language reference",
                source_uri=f"pydoc:{name}",
                metadata={"kind": "reference", "topic": name},
            )


def module_docstrings(entry: str) -> Iterator[Document]:
    """The docstrings of one module: its own, and one document for each public class and function."""
    source = _source(entry)
    if source is None:
        return
    parts = [part for part in entry.split(".") if not part.startswith("_")]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    # asyncio.tasks is where asyncio.wait_for is written, and asyncio is where people find it
    module = parts[0] if parts[0] == "asyncio" else ".".join(parts)
    about = _document(module, ".".join(parts), "module", f"The {'.'.join(parts)} module", ast.get_docstring(tree))
    if about:
        yield about
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
            name = f"{module}.{node.name}"
            found = _document(module, name, _kind(node), _title(name, node), _describe(node))
            if found:
                yield found


def _source(module: str) -> Path | None:
    base = Path(sysconfig.get_path("stdlib"), *module.split("."))
    files = (base.parent / f"{base.name}.py", base / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _document(module: str, name: str, kind: str, title: str, text: str | None) -> Document | None:
    if text is None or len(text) < _SHORTEST:
        return None
    return Document(
        text,
        id=f"library/{name}",
        title=title,
        source="Python standard library",
        source_uri=f"pydoc:{name}",
        metadata={"kind": kind, "module": module},
    )


def _kind(node: ast.stmt) -> str:
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _title(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    return f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"


def _describe(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """A function's docstring; a class's, and how each of its public methods introduces itself."""
    text = ast.get_docstring(node) or ""
    if not isinstance(node, ast.ClassDef):
        return text
    methods = [
        f"{method.name}({ast.unparse(method.args)}): {cleandoc(docstring).split(chr(10) * 2)[0]}"
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name[0] != "_"
        if (docstring := ast.get_docstring(method))
    ]
    return "\n\n".join([text, *methods] if text else methods)
