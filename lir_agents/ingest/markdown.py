"""Markdown files: front matter apart, the title from it or from the first heading; the text stays as written."""

from __future__ import annotations

import re
from typing import Any, Final

from lir_agents.ingest.normalise import normalise_text
from lir_agents.ingest.outline import Outline

__all__ = ["read_markdown"]

_FRONT_MATTER: Final = re.compile(r"---[ \t]*\n(.{0,65536}?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_ENTRY: Final = re.compile(r"^([A-Za-z_][\w-]*):[ \t]+(\S.*)$", re.MULTILINE)
_NOT_SCALAR: Final = ("[", "{", "|", ">", "&", "*", "!", "#")


def read_markdown(text: str) -> tuple[str, str, dict[str, Any]]:
    """Reads a Markdown text.

    Of front matter only plain `key: value` lines are taken. It is not parsed as YAML: what makes YAML more than
    that (anchors, tags, nesting) is what makes it dangerous, and no index searches by it.

    Returns:
        The text without front matter, the title ("" if there is none), and the front matter's entries as text.
    """
    text = normalise_text(text)
    entries: dict[str, Any] = {}
    if front := _FRONT_MATTER.match(text):
        for entry in _ENTRY.finditer(front[1]):
            value = entry[2].strip()
            if not value.startswith(_NOT_SCALAR):
                entries[entry[1]] = value[1:-1] if value[:1] == value[-1:] and value[0] in "'\"" else value
        text = text[front.end() :]
    title = entries.pop("title", "") or next((heading.path[-1] for heading in Outline.of(text).headings), "")
    return text, title, entries
