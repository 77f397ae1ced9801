"""What counts as a word."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.stores import analysis
from lir_agents.stores.analysis import MAX_TERM_CHARS, Analyzer

analyzer = Analyzer()


def terms(text: str) -> list[str]:
    return sorted(analyzer.terms(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Foxes JUMPING over the lazy dogs", ["dog", "fox", "jump", "lazi"]),
        ("http2 SHA256 utf8", ["http2", "sha256", "utf8"]),
        ("snake_case", ["case", "snake", "snake_case"]),
        ("__init__", ["init"]),
        ("assert.deepEqual", ["assert", "assert.deepequal", "deepequ"]),
        ("node.js is fast.", ["fast", "js", "node", "node.js"]),
        ("19.9.0", ["19.9.0"]),
        ("v19.9.0", ["19.9.0"]),
        ("p < 0.05", ["0.05", "p"]),
        ("version 16", ["16", "version"]),
        ("well-known", ["known", "well"]),
        ("the patient's wife", ["patient", "wife"]),
        ("the patient\u2019s wife", ["patient", "wife"]),
        ("don't won't isn't", []),
        ("we'll they've I'm", []),
        ("O'Brien", ["brien", "o"]),
        ("vitamin C", ["c", "vitamin"]),
        ("", []),
        ("... --- ___ ''", []),
    ],
)
def test_english_and_identifiers(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("S\u00e3o Paulo", "sao paulo"),
        ("cafe\u0301", "CAF\u00c9"),
        ("\ufb01nding", "find"),
        ("\uff21\uff22\uff23", "abc"),
        ("Stra\u00dfe", "strasse"),
        ("soft\u00adhyphen", "softhyphen"),
        ("\u1f48\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2", "\u1f40\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c3"),
        ("\uff76\uff9e", "\u30ac"),
    ],
)
def test_spellings_that_are_one_word(one, other):
    assert terms(one) == terms(other) != []


def test_an_accented_word_in_the_text_changes_no_plain_word_of_it():
    plain = "assert.deepEqual in v19.9.0 isn't the patient's max_row"
    assert terms(plain + " na\u00efve") == sorted([*terms(plain), *terms("na\u00efve")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u6771\u4eac\u5854", ["\u4eac", "\u4eac\u5854", "\u5854", "\u6771", "\u6771\u4eac"]),  # Han: both
        ("\u30bf\u30ef\u30fc", ["\u30bf\u30ef", "\u30ef\u30fc"]),  # kana: bigrams
        ("\u0e44\u0e17\u0e22", ["\u0e17\u0e22", "\u0e44\u0e17"]),  # Thai: bigrams
        ("\uac80", ["\uac80"]),  # a single character stands for itself
        ("\u6771tower2024", ["tower2024", "\u6771"]),
    ],
)
def test_scripts_without_spaces(text, expected):
    assert terms(text) == expected


def test_marks_do_not_cut_words_apart():
    hindi = "\u0939\u093f\u0928\u094d\u0926\u0940"
    assert terms(f"{hindi} \u092e\u0947\u0902") == sorted([hindi, "\u092e\u0947\u0902"])


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_gives_storable_terms(text):
    for term in analyzer.terms(text):
        assert term
        assert "\0" not in term
        assert len(term) <= MAX_TERM_CHARS
        term.encode()


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_terms_of_two_texts_are_those_of_both(one, other):
    assert terms(one + "\n" + other) == sorted(terms(one) + terms(other))


@pytest.mark.parametrize("text", ["caf\u00e9 word_a.b ", "plain words, v1.2.3; "])
def test_a_long_text_is_the_sum_of_its_parts(text):
    times = 3 * (1 << 16) // len(text)
    assert terms(text * times) == sorted(terms(text) * times)


@pytest.mark.parametrize(
    "unit",
    ["a", "a.", "_", ".", "n't ", "\u00e9", "a\u0301\u0327", "\u0301\u0327", "\u6771", "\ufdfa", "\u0915\u094d"],
)
def test_time_is_linear_in_hostile_texts(unit):
    def seconds(size: int) -> float:
        start = time.process_time()
        for _ in analyzer.terms(unit * (size // len(unit))):
            pass
        return time.process_time() - start

    small = min(seconds(4_000) for _ in range(3))
    large = min(seconds(60_000) for _ in range(2))  # within one slab; beyond, slabs make it linear
    assert large < 45 * small + 0.05  # fifteen times the text; quadratic would be 225 times


def test_threads_agree():
    text = "jumping foxes " * 200
    expected, seen = terms(text), []
    threads = [threading.Thread(target=lambda: seen.append(terms(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got == expected for got in seen)
    assert len(seen) == 8


def test_the_fingerprint_tells_analysers_apart(monkeypatch):
    assert Analyzer().fingerprint == analyzer.fingerprint
    monkeypatch.setattr(analysis, "STOP_WORDS", frozenset({"fox"}))
    assert Analyzer().fingerprint != analyzer.fingerprint
