"""Whatever the text: redaction is idempotent, its offsets are right, and its checks agree with plain arithmetic."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.ingest.redact import PatternRedactor
from lir_agents.ingest.redact_checks import iban, luhn
from lir_agents.ingest.redact_shadow import shadow_of

REDACTOR = PatternRedactor()
PIECES = st.sampled_from(
    [
        "bob@example.com", "a@b.co", "(at)", " [dot] ", "@", ".", "4111 1111 1111 1111", "4111", "1111",
        "0171 2345678", "+49 30 123456", "030/", "123-45-6789", "DE89 3704 0044 0532 0130 00", "DE89",
        "GB82WEST12345698765432", "8.8.8.8", "2001:db8::1", "AKIAIOSFODNN7EXAMPLE", "sk-",
        "ghp_a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1", "Bearer ", "bearer abcdefgh12345678", "://u:p@",
        "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "eyJhbGciOiJI.eyJzdWIi.x", "[EMAIL_1]",
        "[CARD_2]", " ", "-", "/", "\n", "\u200b", "\u00ad", "\uff11", "\u0663", "\ufb01", "tel ", "Tel.: ",
        "_", "a", "1", "12", "X", "AB 12 34 56 C", "1 84 12 76 451 089 46", "02.03.2021 ", "10:30", "Key=",
        "0", "00", "+", "(", ")", "%40", "%2E", "%2540",
        "\r\n", "-\n", " \n ", "4111-1111-\n1111-1111", "1111\n1111",
        "\u0332", "\ufe0f\u20e3", "\u0301", "1\ufe0f\u20e3", "://u:p/w@", "://h:80/", "host",
        "MIIEowIBAAKCAQEA", "abcd",
        "DE89\n3704 0044\n0532 0130 00", "123-45-\n6789", "@\u0332",
    ]
)  # fmt: skip
texts = st.one_of(
    st.lists(PIECES, max_size=14).map("".join),
    st.lists(PIECES, max_size=14).map(" ".join),
    st.text(max_size=60),
    st.text(st.characters(whitelist_categories=["Nd", "Cf", "Pd", "Zs"]), max_size=60),
)


@settings(max_examples=700, deadline=None)
@given(texts)
def test_redacting_twice_changes_nothing(text):
    once = REDACTOR.redact(text)
    again = REDACTOR.redact(once.text)
    assert (again.text, again.findings) == (once.text, ())


@settings(max_examples=400, deadline=None)
@given(texts)
def test_everything_but_the_findings_stays_where_the_map_says(text):
    result = REDACTOR.redact(text)
    rebuilt, reached = "", 0
    for finding in result.findings:
        assert reached <= finding.start < finding.end <= len(text)
        rebuilt += text[reached : finding.start] + finding.placeholder
        reached = finding.end
    assert rebuilt + text[reached:] == result.text
    replaced = {place for f in result.findings for place in range(f.start, f.end)}
    for place, char in enumerate(result.text):
        start, end = result.offset_map.original(place, place + 1)
        assert (text[start:end] == char and start not in replaced) or set(range(start, end)) <= replaced


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80))
def test_the_shadow_maps_every_character_to_where_it_came_from(text):
    shadow = shadow_of(text)
    for place, char in enumerate(shadow.text):
        start, end = shadow.original(place, place + 1)
        assert char in shadow_of(text[start]).text
        assert all(unicodedata.category(mark) in ("Mn", "Me") for mark in text[start + 1 : end])
        assert text[end : end + 1] == "" or unicodedata.category(text[end]) not in ("Mn", "Me")
    for char in shadow.text:
        assert char in "\t\n\r" or unicodedata.category(char) not in ("Cc", "Cf")
        assert unicodedata.decimal(char, None) is None or char.isascii()


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789", min_size=1, max_size=25))
def test_luhn_agrees_with_the_definition(digits):
    doubled = [sum(map(int, str(int(d) * 2))) if place % 2 else int(d) for place, d in enumerate(digits[::-1])]
    assert luhn(digits) == (sum(doubled) % 10 == 0)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789", min_size=18, max_size=18), st.integers(0, 99))
def test_exactly_one_check_number_makes_an_iban(body, check):
    right = [f"DE{n:02d}{body}" for n in range(2, 99) if iban(f"DE{n:02d}{body}")]
    assert len(right) == 1
    assert iban(f"DE{check:02d}{body}") == (f"DE{check:02d}{body}" in right) or check in (0, 1, 99)
