"""Normalising and decoding text."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.errors import InputError
from lir_agents.ingest.normalise import decode_text, mend_surrogates, normalise_line, normalise_text

any_text = st.text(st.characters(codec=None, categories=None), max_size=200)
marks = st.text(st.sampled_from("e\u0301\u0316\u0344\u0345\u0958\u0340"), max_size=200)


@settings(max_examples=300, deadline=None)
@given(st.one_of(any_text, marks))
def test_normalising_is_idempotent_and_storable(text):
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()
    assert not any(unicodedata.category(char) == "Cc" and char not in "\t\n" for char in once)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100))
def test_plain_text_stays_as_it_is(text):
    assert normalise_text(text) == text


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h", "a\nb\nc\nd\ne\nf\ng\nh"),
        ("e\u0301", "é"),
        ("\ufeffmark", "mark"),
        ("a\x00b\x07c\x7fd\te", "abcd\te"),
        ("\ud83d\ude00 and \ud83d alone", "😀 and \ufffd alone"),
    ],
)
def test_what_changes(given_text, expected):
    assert normalise_text(given_text) == expected


def test_titles_become_one_line():
    assert normalise_line("  A\n\ttitle \r\n here ") == "A title here"


def test_whole_surrogate_pairs_are_not_damaged():
    assert mend_surrogates("\ud83d\ude00") == "😀"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_bytes_with_and_without_marks_decode(encoding):
    assert decode_text("naïve 漢字".encode(encoding)) == "naïve 漢字"


def test_invalid_bytes_are_refused_with_their_place():
    with pytest.raises(InputError, match=r"byte 9 \(line 2\) is not UTF-8.*iconv"):
        decode_text(b"line one\n\xff")


def test_a_declared_encoding_is_used():
    assert decode_text("naïve".encode("windows-1252"), encoding="windows-1252") == "naïve"


def test_binary_content_is_refused():
    with pytest.raises(InputError, match="NUL character at offset 2"):
        decode_text(b"ab\0c")


def test_millions_of_combining_marks_take_linear_time():
    began = time.perf_counter()
    normalise_text("a" + "\u0301\u0316" * 500_000)
    assert time.perf_counter() - began < 20  # quadratic reordering would take hours
