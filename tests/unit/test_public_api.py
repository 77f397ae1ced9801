"""The public API is what the golden file says. After a change that is meant: `make api`, and read the diff."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden" / "public_api.txt"
MODULES = (
    "lir_agents",
    "lir_agents.graph",
    "lir_agents.langchain",
    "lir_agents.llama_index",
    "lir_agents.policy",
    "lir_agents.evaluation",
    "lir_agents.telemetry",
)


def snapshot() -> str:
    """Every public name with its signature, one a line; of classes their own public members too."""
    lines: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines += [f"# {name}", *(line for public in sorted(module.__all__) for line in _entry(module, public)), ""]
    return "\n".join(lines)


def _entry(module: Any, name: str) -> Iterator[str]:
    thing = getattr(module, name)
    if inspect.isclass(thing):
        yield f"class {name}({', '.join(base.__name__ for base in thing.__bases__ if base is not object)})"
        yield from (f"    {line}" for line in _members(thing))
    elif inspect.isfunction(thing):
        yield f"{name}{_signature(thing)}"
    else:
        yield f"{name}: {type(thing).__name__}"


def _members(thing: type) -> list[str]:
    """What a class and its bases in this package add: fields, methods, properties."""
    fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
    own = [base for base in thing.__mro__ if base.__module__.split(".")[0] == "lir_agents"]
    found: dict[str, str] = {}
    for base in reversed(own):
        for name, member in vars(base).items():
            if name == "__init__" and base is thing:
                found[name] = f"__init__{_signature(member)}"
            elif not name.startswith("_") and name not in fields:
                found[name] = _member(name, member)
        for name, annotation in inspect.get_annotations(base).items():
            if not name.startswith("_"):
                found.setdefault(name, f"{name}: {annotation}")
    return [line for _, line in sorted(found.items()) if line]


def _member(name: str, member: Any) -> str:
    if isinstance(member, property):
        return f"{name}: property -> {inspect.signature(member.fget).return_annotation}"  # type: ignore[arg-type]
    if isinstance(member, classmethod | staticmethod):
        return f"{type(member).__name__} {name}{_signature(member.__func__)}"
    if inspect.isfunction(member):
        return f"{'async ' if inspect.iscoroutinefunction(member) else ''}{name}{_signature(member)}"
    return ""


def _signature(thing: Any) -> str:
    """As written in the source; addresses of default objects differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)))


def test_the_public_api_is_as_it_was_agreed() -> None:
    kept, now = GOLDEN.read_text(encoding="utf-8"), snapshot()
    difference = "\n".join(
        difflib.unified_diff(kept.splitlines(), now.splitlines(), "golden", "now", lineterm="", n=0)
    )
    assert kept == now, f"Meant? Then run `make api`.\n{difference}"


def test_every_public_name_has_a_docstring() -> None:
    named = [(name, public) for name in MODULES for public in importlib.import_module(name).__all__]
    things = [(f"{name}.{public}", getattr(importlib.import_module(name), public)) for name, public in named]
    bare = [
        name
        for name, thing in things
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not thing.__doc__
    ]
    assert bare == []


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(snapshot(), encoding="utf-8")
