"""Splitting: what holds for every text, with the real tokenizer and with hostile ones."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.encoding.open import open_encoder
from lir_agents.errors import InputError
from lir_agents.ingest.normalise import normalise_text
from lir_agents.ingest.split import split

encoder = open_encoder()

BITS = [
    "# Leave\n",
    "## Sick leave\n\n",
    "Title\n===\n",
    "```\n",
    "~~~ py\n",
    "- item\n",
    "1. first ",
    "\n\n",
    "\n",
    " ",
    "\t",
]
WORDS = [
    "word",
    "Sentence one. Sentence two! ",
    "unbelievably",
    "漢字。",
    "é",
    "👩‍👩‍👧",
    "\u200b",
    "x" * 130,
    "Dr. X",
    "...",
    "a" * 70 + " ",
]
structured = st.lists(st.sampled_from(BITS + WORDS), max_size=120).map("".join)
texts = st.one_of(structured, st.text(max_size=400)).map(normalise_text)


def words_of(text):
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def bytes_of(text):
    """A byte-level tokenizer: a character of many bytes is many tokens with one span."""
    return [(i, i + 1) for i, char in enumerate(text) for _ in char.encode()]


def with_leading_space(text):
    """As SentencePiece counts: a token's span begins with the white space before it."""
    return [match.span() for match in re.finditer(r"\s*\S{1,5}", text)]


def nothing(text):
    return []


tokenizers = st.sampled_from([encoder.token_spans, words_of, bytes_of, with_leading_space, nothing])


@settings(max_examples=250, deadline=None)
@given(text=texts, spans_of=tokenizers, limit=st.integers(16, 60))
def test_passages_are_ordered_disjoint_trimmed_bounded_and_cover_the_text(text, spans_of, limit):
    passages = split(text, spans_of, passage_tokens=limit)
    position = 0
    for passage in passages:
        body = text[passage.start : passage.end]
        assert position <= passage.start < passage.end
        assert not text[position : passage.start].strip()
        assert body == body.strip()
        assert len(spans_of(body)) <= limit or len(body) == 1
        position = passage.end
    assert not text[position:].strip()


@settings(max_examples=100, deadline=None)
@given(text=texts, limit=st.integers(16, 60))
def test_splitting_is_deterministic(text, limit):
    first = split(text, encoder.token_spans, passage_tokens=limit)
    assert first == split(text, encoder.token_spans, passage_tokens=limit)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.integers(16, 220))
def test_plain_words_come_out_even(count, limit):
    text = " ".join(["word"] * count)
    sizes = [
        len(encoder.token_spans(text[p.start : p.end]))
        for p in split(text, encoder.token_spans, passage_tokens=limit)
    ]
    fewest = -(-count // limit)
    assert len(sizes) <= fewest + 1 + count // (8 * limit)
    assert max(sizes) - min(sizes) <= limit // 8 + 2


def test_short_text_is_one_passage():
    assert [(p.start, p.end) for p in split("  one passage \n", encoder.token_spans, passage_tokens=220)] == [
        (2, 13)
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t\n"])
def test_text_without_characters_has_no_passages(text):
    assert split(text, encoder.token_spans, passage_tokens=220) == []


def test_too_small_a_passage_is_refused():
    with pytest.raises(InputError, match="passage_tokens"):
        split("text", encoder.token_spans, passage_tokens=15)


def section(title, words):
    return f"{title}\n\n" + "Plain words make up this line here. " * (words // 7) + "\n\n"


def test_sections_stand_apart_and_carry_the_headings_above_them():
    text = (
        section("# Leave", 70)
        + section("## Sick leave", 180)
        + section("## Parental leave", 400)
        + section("# Pay", 150)
    )
    passages = split(text, encoder.token_spans, passage_tokens=220)
    begins = [text[p.start :].split("\n")[0] for p in passages if text[p.start] == "#"]
    assert begins == ["# Leave", "## Sick leave", "## Parental leave", "# Pay"]
    inner = [p.heading for p in passages if text[p.start] != "#"]
    assert set(inner) == {"Leave > Parental leave"}
    assert next(p for p in passages if text[p.start :].startswith("## Sick")).heading == "Leave"


def test_small_sections_are_joined():
    text = "".join(section(f"## Part {i}", 14) for i in range(40))
    passages = split(text, encoder.token_spans, passage_tokens=220)
    assert len(passages) < 20
    assert all(text[p.start] == "#" for p in passages)


def test_a_heading_is_never_left_alone_at_the_end_of_a_passage():
    text = "".join(section(f"## Part {i}", 100) for i in range(30))
    for passage in split(text, encoder.token_spans, passage_tokens=120):
        assert not text[passage.start : passage.end].splitlines()[-1].startswith("#")


def test_code_that_fits_stays_whole():
    code = "```python\n" + "".join(f"value_{i} = {i}\n" for i in range(20)) + "# not a heading\n```"
    text = section("# One", 120) + code + "\n\n" + section("More", 150) + code + "\n\n" + section("Last", 60)
    passages = split(text, encoder.token_spans, passage_tokens=220)
    bodies = [text[p.start : p.end] for p in passages]
    assert sum(code in body for body in bodies) == 2
    assert all(p.headings in ((), ("One",)) for p in passages)


def test_sentences_are_kept_whole():
    text = "This sentence is of a middling length, as e.g. Dr. Smith would have it. " * 60
    for passage in split(text, encoder.token_spans, passage_tokens=100):
        assert text[passage.start : passage.end].startswith("This sentence")
        assert text[passage.start : passage.end].endswith("have it.")


def test_list_items_are_kept_whole():
    text = "".join(f"- item number {i} has some words and then a few more words to say\n" for i in range(60))
    for passage in split(text, encoder.token_spans, passage_tokens=100):
        assert text[passage.start : passage.end].startswith("- item")


@pytest.mark.parametrize(
    "text",
    [
        "word and more " * 360_000,
        "x" * 5_000_000,
        " " * 4_999_999 + "x",
        "# a\n" * 400_000,
        "```\n" * 400_000,
        "a\n---\n" * 200_000,
        "\u200b" * 3_000_000,
    ],
    ids=["words", "one word", "spaces", "headings", "fences", "underlines", "invisible"],
)
def test_five_megabytes_on_one_line_and_worse_take_seconds(text):
    def cheap(piece):
        return [(i, i + 5) for i in range(0, len(piece), 5)]

    began = time.perf_counter()
    passages = split(text, cheap, passage_tokens=220)
    assert time.perf_counter() - began < 30  # a loaded machine; quadratic work would take minutes
    assert len(passages) < len(text) / 100 + 2
