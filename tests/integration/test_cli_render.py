"""What the terminal shows: safe, aligned, and true to the numbers."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lir_agents import Coverage, Hit, SearchResult, StageCoverage
from lir_agents.cli import render
from lir_agents.cli.console import emit_json, printable
from lir_agents.ranking.explain import Explanation, TokenMatch

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m plain [red]markup[/red] \u202eesrever\u2066 \x00 zero\u200bwidth"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_written_to_any_terminal_and_reads_back_the_same(monkeypatch, encoding: str) -> None:
    document = {"id": "\ud800", "text": "caf\u00e9 \U0001f35c", "plain": "soup"}
    for written in (document, {"text": document["text"]}):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", terminal)
        emit_json(written)
        terminal.flush()
        assert json.loads(terminal.buffer.getvalue().decode(encoding)) == written


def shown(*items: object) -> str:
    screen = Console(file=io.StringIO(), width=100, force_terminal=False)
    for item in items:
        screen.print(item)
    written = screen.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


def hit(text: str = "the passage", **changes: object) -> Hit:
    values: dict[str, object] = {
        "rank": 1,
        "score": 0.5,
        "text": text,
        "title": "A title",
        "document_id": "d1",
        "passage_id": "d1#0",
        "version": 2,
        "source": "",
        "source_uri": "file:d1",
        "content_sha256": "",
        "start": 0,
        "end": len(text),
        "metadata": {},
        "breakdown": {"maxsim": 0.6, "dense": -0.1},
    }
    return Hit(**(values | changes))  # type: ignore[arg-type]


def explanation(text: str, word: str) -> Explanation:
    start = text.index(word)
    match = TokenMatch("tok", (0, 3), word, (start, start + len(word)), False, 0.9, 0.4)
    return Explanation("tok", text, (match,))


def test_nothing_from_a_document_steers_the_terminal() -> None:
    hostile = hit(ATTACK, title=ATTACK, source_uri=ATTACK, breakdown={ATTACK: 0.5})
    found = TokenMatch(ATTACK, (0, 3), ATTACK, (0, 3), True, 0.9, 0.4)
    coverage = Coverage({"memory": StageCoverage("failed", ATTACK)})
    result = SearchResult((hostile,), "q", coverage, {"total": 2.0}, ATTACK)
    written = shown(
        render.hit_panel(hostile, full=1.0, explanation=Explanation("q", ATTACK, (found,))),
        render.match_table(Explanation("q", ATTACK, (found,))),
        render.result_footer(result),
    )
    assert not set("\x1b\x07\x9b\x00\u202e\u2066\u200b") & set(written)
    assert "[red]markup[/red]" in written


@given(st.text())
def test_printable_keeps_only_what_is_safe(text: str) -> None:
    safe = printable(text)
    refused = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
    assert all(char in "\n\t" or unicodedata.category(char) not in refused for char in safe)
    assert printable(safe) == safe


def test_printable_leaves_ordinary_text_alone() -> None:
    text = "Grüße, 日本語, emoji 🎉,\ttabs and\nlines — “quotes”"
    assert printable(text) == text


@given(
    words=st.lists(st.text("abc\x1b\u202e", min_size=1, max_size=12), min_size=1, max_size=200),
    at=st.integers(0, 10_000),
)
def test_a_snippet_shows_the_marked_word_in_bold(words: list[str], at: int) -> None:
    text = " ".join(words)
    chosen = at % len(words)
    start = len(" ".join(words[:chosen])) + (1 if chosen else 0)
    shown_text = render.snippet(text, [(start, start + len(words[chosen]))])
    bold = [shown_text.plain[span.start : span.end] for span in shown_text.spans if "bold" in str(span.style)]
    assert bold == ["".join(printable(char) for char in words[chosen])]
    assert len(shown_text.plain) <= 320 + 40


def test_a_bar_is_as_long_as_its_part_of_the_best() -> None:
    bar = render.breakdown_bar({"maxsim": 0.5, "dense": 0.25, "lexical": -0.2}, full=1.0).plain
    assert bar.count("█") == 45
    for piece in ("maxsim +0.50", "dense +0.25", "lexical -0.20"):
        assert piece in bar
    assert "█" not in render.breakdown_bar({"maxsim": 0.0}, full=0.0).plain


def test_the_longest_bar_is_the_largest_sum_of_positive_parts() -> None:
    hits = [hit(breakdown={"a": 1.0, "b": -5.0}), hit(breakdown={"a": 0.4, "b": 0.4})]
    assert render.longest(hits) == pytest.approx(1.0)
    assert render.longest([]) == 0.0


def test_a_panel_names_rank_source_version_and_movement() -> None:
    written = shown(render.hit_panel(hit(), full=1.0, moved="▲ was 7"))
    for piece in (" 1 ", "A title", "file:d1", "v2", "0.500", "▲ was 7", "maxsim +0.60", "dense -0.10"):
        assert piece in written


def test_the_match_table_shows_which_words_met() -> None:
    text = "close the file"
    written = shown(render.match_table(explanation(text, "file")))
    assert "tok" in written
    assert "file" in written
    assert "0.90" in written
    assert "+0.400" in written


def test_a_result_says_what_was_left_out() -> None:
    coverage = Coverage({"memory": StageCoverage("timed_out", "50 ms")})
    written = shown(render.result_footer(SearchResult((), "q", coverage, {"total": 12.3}, "e7")))
    assert "0 hits · 12 ms · event e7" in written
    assert "1 hit · " in shown(render.result_footer(SearchResult((hit(),), "q", coverage, {}, "e7")))
    assert "memory timed out (50 ms)" in written
