"""The structure that a writer gave a text: headings and fenced code blocks.

A line scanner rather than a Markdown parser. Splitting needs two of Markdown's block rules, on any text,
in time linear in its length; markdown-it-py's block parser takes 10–20 s per MB on short list items and
headings (2 cores, 4.3), longer than encoding many a document. It does read the words of a heading, where markup
can hide in a line.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Heading", "Outline", "plain_words"]

_MOST_ENTRIES = 50_000  # headings or fences; what follows in a hostile text counts as plain lines
_LONGEST_HEADING = 300
_LINE = re.compile(
    r"^ {0,3}(?:"
    r"(?P<hashes>\#{1,6})[ \t]+(?P<title>[^\n]+)"
    r"|(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)"
    r"|(?P<underline>={3,}|-{3,})[ \t]*$"
    r")",
    re.MULTILINE,
)
_NO_TITLE = re.compile(r"[ \t]*([#>|=~`-]|[*+] |\d{1,9}[.)] )")
_MARKUP = re.compile(r"[*_`\[\]<>&\\!]")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading line.

    Attributes:
        start: Offset of the heading's first character other than white space.
        end: Offset behind its last line, without the line end.
        level: 1 to 6.
        path: The headings in force below this line, outermost first, its own last; plain words.
    """

    start: int
    end: int
    level: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """Headings and fences of one text, in order of appearance.

    Attributes:
        headings: Outside of fences.
        fences: (start, end) offsets of fenced code blocks, fence lines included.
    """

    headings: tuple[Heading, ...]
    fences: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str) -> Outline:
        """Reads the outline of a normalised text, in linear time."""
        headings: list[Heading] = []
        fences: list[tuple[int, int]] = []
        fence: tuple[int, str] | None = None
        stack: list[tuple[int, str]] = []  # levels and words of the headings in force
        for line in _LINE.finditer(text):
            if fence is not None:
                if _closes(line, fence[1]):
                    fences.append((fence[0], line.end()))
                    fence = None
            elif line["fence"]:
                fence = (line.start("fence"), line["fence"])
            elif (found := _heading(text, line)) is not None:
                start, level, words = found
                stack = [*(entry for entry in stack if entry[0] < level), (level, words)]
                headings.append(Heading(start, line.end(), level, tuple(entry[1] for entry in stack)))
            if len(headings) + len(fences) >= _MOST_ENTRIES:
                break
        if fence is not None:  # Markdown: a fence left open runs to the end
            fences.append((fence[0], len(text)))
        return cls(tuple(headings), tuple(fences))

    def above(self, position: int) -> tuple[str, ...]:
        """The headings in force at an offset, outermost first, without a heading that begins right there.

        A passage that begins with its own heading carries that one in its text.
        """
        index = bisect_right(self.headings, position, key=lambda heading: heading.start) - 1
        if index < 0:
            return ()
        heading = self.headings[index]
        return heading.path[:-1] if position == heading.start else heading.path


def _closes(line: re.Match[str], opening: str) -> bool:
    return bool(line["fence"]) and line["fence"].startswith(opening) and not line["info"].strip()


def _heading(text: str, line: re.Match[str]) -> tuple[int, int, str] | None:
    """Start, level and words of the heading that a line makes, if it makes one."""
    if line["hashes"]:
        start, level = line.start("hashes"), len(line["hashes"])
        raw = line["title"].strip()
        raw = raw.rstrip("#").rstrip() or raw
    else:
        begin = text.rfind("\n", 0, max(0, line.start() - 1)) + 1
        above = text[begin : line.start()] if line.start() - begin <= _LONGEST_HEADING else ""
        if not above.strip() or _NO_TITLE.match(above):
            return None
        start, level = begin + len(above) - len(above.lstrip()), (1 if line["underline"][0] == "=" else 2)
        raw = above.strip()
    words = plain_words(raw) if len(raw) <= _LONGEST_HEADING else ""
    return (start, level, words) if words else None


@lru_cache(maxsize=1024)
def plain_words(line: str) -> str:
    """The words of one line of Markdown as a reader sees them: no emphasis, link targets or tags."""
    if not _MARKUP.search(line):
        return line
    from markdown_it import MarkdownIt

    inline = MarkdownIt("commonmark").parseInline(line)[0].children or []
    words = (" " if token.type.endswith("break") else token.content for token in inline if _shown(token.type))
    return " ".join("".join(words).split())


def _shown(kind: str) -> bool:
    return kind in ("text", "code_inline", "image", "softbreak", "hardbreak")
