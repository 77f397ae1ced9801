"""HTML to text that splitting can read: headings as Markdown headings, paragraphs, list items, code fences.

Runs in the parsing process (`parse_worker`): the parser is C code and its input is anybody's.
"""

from __future__ import annotations

import re
from typing import Any, Final

from lir_agents.errors import InputError
from lir_agents.ingest.normalise import decode_text

__all__ = ["html_to_text"]

_LEFT_OUT: Final = re.compile(
    "script|style|nav|noscript|template|svg|math|head|iframe|object|embed|applet|canvas|audio|video|select"
    "|datalist|button|input|textarea"
)
_BLOCK: Final = re.compile(
    "address|article|aside|blockquote|body|caption|center|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure"
    "|footer|form|header|hgroup|hr|html|main|menu|ol|p|section|summary|table|tbody|tfoot|thead|ul"
)
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_CHARSET: Final = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_ENCODINGS: Final = re.compile(
    r"windows-125[0-8]|iso-8859-(?:[2-9]|1[0-6])|koi8-[ru]|gb2312|gbk|gb18030|big5|shift_jis|euc-(?:jp|kr)"
)
_SPACE: Final = re.compile(r"\s+")
_ROW_ENDS: Final = re.compile(r" \| ?\n")
_BLANK_LINES: Final = re.compile(r"[ \t]*\n(?:[ \t]*\n)+")


def html_to_text(data: bytes, *, max_chars: int) -> tuple[str, str]:
    """Reads an HTML file.

    Scripts, styles, navigation and forms are left out; nothing is fetched and nothing is run.

    Args:
        data: The file.
        max_chars: Longest text, in characters.

    Returns:
        Title ("" if there is none) and text.

    Raises:
        InputError: The bytes are not text in the declared encoding, or the text is too long.
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decode_text(data, encoding=_declared(data)))
    text = _Writer(max_chars).write(tree.root)
    heading = tree.css_first("title") or tree.css_first("h1")
    title = heading.text(deep=True) if heading is not None else ""
    return " ".join(title.split()), text


def _declared(data: bytes) -> str:
    found = _CHARSET.search(data[:4096])
    if not found:
        return ""
    name = found[1].decode("ascii", "replace").lower()
    if name in ("iso-8859-1", "latin1", "us-ascii", "ascii"):  # the HTML standard: these mean windows-1252
        return "windows-1252"
    # Only what browsers know; a page that could be read this far is not UTF-16, whatever it says.
    return name if _ENCODINGS.fullmatch(name) else ""


class _Writer:
    """Walks the tree with a stack of its own, so that no nesting exhausts Python's."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._parts: list[str] = []
        self._verbatim = 0

    def write(self, root: Any) -> str:
        node, depth = root, 0
        while node is not None:
            child = node.child if self._enter(node) else None
            if child is not None:
                node, depth = child, depth + 1
                continue
            self._leave(node)
            while node.next is None and depth:
                node, depth = node.parent, depth - 1
                self._leave(node)
            node = node.next if depth else None
        text = _ROW_ENDS.sub("\n", "".join(self._parts))
        return _BLANK_LINES.sub("\n\n", text).strip()

    def _enter(self, node: Any) -> bool:
        tag = node.tag
        if tag == "-text":
            self._put_text(node.text_content or "")
        elif _LEFT_OUT.fullmatch(tag) or tag.startswith("-"):
            return False
        elif tag in _HEADINGS:
            self._put("\n\n" + _HEADINGS[tag])
        elif tag == "pre":
            self._verbatim += 1
            self._put("\n\n```\n")
        elif tag == "li":
            self._put("\n- ")
        elif tag in ("br", "tr"):
            self._put("\n")
        elif _BLOCK.fullmatch(tag):
            self._put("\n\n")
        return True

    def _leave(self, node: Any) -> None:
        tag = node.tag
        if tag == "pre":
            self._verbatim -= 1
            self._put("\n```\n\n")
        elif tag in ("td", "th"):
            self._put(" | ")
        elif tag in _HEADINGS or _BLOCK.fullmatch(tag):
            self._put("\n\n")

    def _put_text(self, text: str) -> None:
        self._put(text if self._verbatim else _SPACE.sub(" ", text))

    def _put(self, text: str) -> None:
        self._chars += len(text)
        # Markup between words adds line ends; twice the bound leaves room for them and still bounds memory.
        if self._chars > 2 * self._max_chars:
            raise InputError(
                f"holds more than {self._max_chars:,} characters",
                field="text",
                remedy="Split it, or raise ingest.max_document_chars.",
            )
        self._parts.append(text)
