"""Hits and results as HTML for notebooks: ranked cards, what each score is made of, and the words that met.

Everything that came from a document or a query is text to this module: it is escaped, what could reorder a line
or hide in it is made visible, right-to-left text is isolated, and only web addresses become links. No script, no
style sheet and no request to anywhere: inline styles alone, readable on a light and on a dark page.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from lir_agents.errors import LirError

if TYPE_CHECKING:
    from lir_agents.ranking.explain import Explanation, TokenMatch
    from lir_agents.types import Hit, SearchResult

__all__ = ["hit_html", "result_html"]

_MOST_CARDS: Final = 20
"""Hits of a result that are shown; the others are counted."""
_SPEAKING: Final = 0.35
"""Matches below this similarity are not shaded."""

# Okabe and Ito's palette: told apart by colour-blind eyes too.
_COLOURS: Final = {
    "maxsim": "#0072b2",
    "dense": "#56b4e9",
    "lexical": "#009e73",
    "context": "#cc79a7",
    "neighbours": "#999999",
}
_OTHER_COLOURS: Final = ("#e69f00", "#d55e00", "#f0e442")

_CARD: Final = (
    "border:1px solid rgba(127,127,127,.4);border-radius:6px;padding:8px 12px;margin:8px 0;max-width:60em"
)
_FAINT: Final = "opacity:.65;font-size:85%"
_RANK: Final = (
    "display:inline-block;min-width:1.6em;text-align:center;border-radius:4px;background:rgba(127,127,127,.25)"
)


def result_html(result: SearchResult) -> str:
    """A result as one HTML fragment: a header with time, event and what was left out, then a card per hit."""
    shown = result.hits[:_MOST_CARDS]
    scale = _Scale.of(hit.breakdown for hit in shown)
    about = [f"{len(result.hits)} hit{'' if len(result.hits) == 1 else 's'}"]
    if (total := result.timings_ms.get("total")) is not None:
        about.append(f"{total:.0f} ms")
    about.append(f"event {_text(result.event_id)}")
    parts = [
        f'<div><b dir="auto">{_text(result.query)}</b> <span style="{_FAINT}">{" · ".join(about)}</span></div>',
        f'<div style="color:#d55e00">{_text(result.coverage.caveat)}</div>' if result.coverage.caveat else "",
        *(_card(hit, scale) for hit in shown),
    ]
    if more := len(result.hits) - len(shown):
        parts.append(f'<div style="{_FAINT}">… and {more} more</div>')
    return f"<div>{''.join(parts)}</div>"


def hit_html(hit: Hit) -> str:
    """One hit as a card; its bar is drawn to its own scale."""
    return _card(hit, _Scale.of([hit.breakdown]))


# ---------------------------------------------------------------- a card


def _card(hit: Hit, scale: _Scale) -> str:
    explanation, unshaded = _explained(hit)
    shaded = _shaded(hit.text, explanation)
    note = "" if explanation is not None else f" · words are not shaded: {_text(unshaded)}"
    return (
        f'<div style="{_CARD}">'
        f'<div><span style="{_RANK}">{hit.rank}</span> <b><bdi>{_text(hit.title or hit.document_id)}</bdi></b>'
        f' <span style="{_FAINT}">score {hit.score:+.3f}</span></div>'
        f"{_bar(hit.breakdown, scale)}"
        f'<div dir="auto" style="white-space:pre-wrap;margin:6px 0">{shaded}</div>'
        f'<div style="{_FAINT}">{_origin(hit)}{note}</div>'
        f"{_metadata(hit.metadata)}</div>"
    )


def _explained(hit: Hit) -> tuple[Explanation | None, str]:
    """The hit's explanation, or why there is none: its index may be closed, the passage erased."""
    try:
        return hit.explain(), ""
    except LirError as error:
        return None, str(error)


def _origin(hit: Hit) -> str:
    address = hit.source_uri
    shown = f"<bdi>{_text(address or hit.source or hit.document_id)}</bdi>"
    # Only what is shown as it is may be followed: an address with hidden characters leads elsewhere than it says.
    if address.startswith(("https://", "http://")) and _visible(address) == address:
        shown = f'<a href="{escape(address)}" rel="noopener noreferrer nofollow" target="_blank">{shown}</a>'
    return f"{shown} · <code><bdi>{_text(hit.passage_id)}</bdi></code> · version {hit.version}"


def _metadata(metadata: Mapping[str, Any]) -> str:
    if not metadata:
        return ""
    rows = "".join(
        f"<li><code><bdi>{_text(key)}</bdi></code> <bdi>{_text(value)}</bdi></li>"
        for key, value in metadata.items()
    )
    return f'<details style="{_FAINT}"><summary>metadata</summary><ul style="margin:0">{rows}</ul></details>'


# ---------------------------------------------------------------- the breakdown


class _Scale:
    """The room that bars need left and right of zero, shared by all cards of a result."""

    __slots__ = ("left", "right")

    def __init__(self, left: float, right: float) -> None:
        self.left = left
        self.right = right

    @classmethod
    def of(cls, breakdowns: Iterable[Mapping[str, float]]) -> _Scale:
        left = right = 0.0
        for breakdown in breakdowns:
            left = max(left, -sum(value for value in breakdown.values() if value < 0))
            right = max(right, sum(value for value in breakdown.values() if value > 0))
        return cls(left, right)

    def percent(self, value: float) -> float:
        """Width of a part, in percent of the whole bar."""
        whole = self.left + self.right
        return 100 * abs(value) / whole if whole > 0 and math.isfinite(whole) else 0.0


def _bar(breakdown: Mapping[str, float], scale: _Scale) -> str:
    """What lowers the score to the left of zero, what lifts it to the right, and a legend in the same colours."""
    colours = _colours(breakdown)
    lowered = [(name, value) for name, value in breakdown.items() if value < 0]
    lifted = [(name, value) for name, value in breakdown.items() if value > 0]
    room = scale.percent(scale.left) - sum(scale.percent(value) for _, value in lowered)
    segments = "".join(
        [
            f'<div style="width:{max(room, 0.0):.2f}%"></div>',
            *(_segment(name, value, scale, colours[name]) for name, value in lowered),
            '<div style="width:1px;background:currentColor"></div>',
            *(_segment(name, value, scale, colours[name]) for name, value in lifted),
        ]
    )
    legend = " ".join(
        f'<span style="white-space:nowrap"><span style="color:{colours[name]}">■</span> '
        f"<bdi>{_text(name)}</bdi> {value:+.2f}</span>"
        for name, value in breakdown.items()
    )
    label = ", ".join(f"{_text(name)} {value:+.2f}" for name, value in breakdown.items())
    return (
        f'<div role="img" aria-label="{label}" style="display:flex;height:10px;margin:4px 0">{segments}</div>'
        f'<div style="font-size:85%">{legend}</div>'
    )


def _segment(name: str, value: float, scale: _Scale, colour: str) -> str:
    paint = f"width:{scale.percent(value):.2f}%;background:{colour};opacity:{0.45 if value < 0 else 1}"
    return f'<div title="{_text(name)} {value:+.3f}" style="{paint}"></div>'


def _colours(names: Iterable[str]) -> dict[str, str]:
    others = sorted(name for name in names if name not in _COLOURS)
    return {**_COLOURS, **{name: _OTHER_COLOURS[at % len(_OTHER_COLOURS)] for at, name in enumerate(others)}}


# ---------------------------------------------------------------- the passage


def _shaded(text: str, explanation: Explanation | None) -> str:
    """The passage, each matched word on a ground as strong as its best match; hovering names the query's word."""
    pieces, at = [], 0
    for match in _marks(explanation or ()):
        start, end = match.span
        if start < at or end > len(text):  # inside of a word that is shaded already
            continue
        strength = 0.75 * min(match.similarity, 1.0) ** 2
        about = f"{_text(match.query_token)} → {_text(match.word)} {match.similarity:.2f}"
        pieces.append(_text(text[at:start]))
        pieces.append(
            f'<span title="{about}" style="background:rgba(230,159,0,{strength:.2f});border-radius:3px">'
            f"{_text(text[start:end])}</span>"
        )
        at = end
    return "".join((*pieces, _text(text[at:])))


def _marks(matches: Sequence[TokenMatch]) -> list[TokenMatch]:
    """The best match of each word of the passage's own text, in the order of the text."""
    best: dict[tuple[int, int], TokenMatch] = {}
    for match in matches:
        if match.in_title or match.similarity < _SPEAKING or match.span[0] >= match.span[1]:
            continue
        if match.span not in best or best[match.span].similarity < match.similarity:
            best[match.span] = match
    return [best[span] for span in sorted(best)]


# ---------------------------------------------------------------- text made safe


def _text(value: object) -> str:
    return escape(_visible(str(value)))


def _visible(text: str) -> str:
    r"""Control characters, bidirectional overrides and whatever else shows nothing become "\ufffd", one for one."""
    return "".join(char if _is_safe(char) else "\ufffd" for char in text)


def _is_safe(char: str) -> bool:
    # the two joiners are part of how Persian, Indic scripts and emoji are spelt
    return char.isprintable() or char in "\n\t\u200c\u200d" or unicodedata.category(char) == "Zs"
