"""Redaction: what is replaced, how values are numbered, and what hostile text costs."""

from __future__ import annotations

import time

import pytest

from lir_agents.errors import InputError
from lir_agents.ingest.redact import PatternRedactor, redact_document
from lir_agents.ingest.redact_base import Ledger
from lir_agents.ingest.redact_pattern import Pattern
from lir_agents.ingest.redact_shadow import shadow_of
from lir_agents.types import Document

REDACTOR = PatternRedactor()


def redacted(text: str) -> str:
    return REDACTOR.redact(text).text


def test_the_same_value_has_the_same_number_however_it_is_written():
    text = (
        "bob@example.com, BOB@example.com, bob\u200b@example.com, \uff42ob (at) example [dot] com, ann@example.com"
    )
    assert redacted(text) == "[EMAIL_1], [EMAIL_1], [EMAIL_1], [EMAIL_1], [EMAIL_2]"
    assert redacted("4111 1111 1111 1111 and 4111-1111-1111-1111") == "[CARD_1] and [CARD_1]"


def test_findings_say_what_and_where_and_never_the_value():
    text = "write to b\u00adob@example.com today"
    result = REDACTOR.redact(text)
    (finding,) = result.findings
    assert (finding.kind, finding.placeholder) == ("EMAIL", "[EMAIL_1]")
    assert text[finding.start : finding.end] == "b\u00adob@example.com"
    ledger = Ledger()
    REDACTOR.redact(text, ledger)
    assert "example" not in repr(result) + repr(ledger)


def test_offsets_lead_back_to_the_original():
    text = "a bob@example.com b +49 30 1234567 c"
    result = REDACTOR.redact(text)
    assert result.text == "a [EMAIL_1] b [PHONE_1] c"
    for word in ("a", "b", "c"):
        place = result.text.index(f"{word}")
        start, end = result.offset_map.original(place, place + 1)
        assert text[start:end] == word
    inside = result.text.index("EMAIL")
    start, end = result.offset_map.original(inside, inside + 2)
    assert text[start:end] == "bob@example.com"
    start, end = result.offset_map.original(0, len(result.text))
    assert text[start:end] == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 34 4111 1111 1111 1111 78", "12 34 [CARD_1] 78"),
        ("call 0171 2345678 0172 3456789 0173 4567890", "call [PHONE_1] [PHONE_2] [PHONE_3]"),
        ("on 2024-01-15 0171 2345678", "on 2024-01-15 [PHONE_1]"),
        ("+49 (0)30 1234567, tel: 5551234.", "[PHONE_1], tel: [PHONE_2]."),
        ("mailto:bob@example.com?subject=x", "mailto:[EMAIL_1]?subject=x"),
        ("postgres://app:hunter2@db.example.com/x", "postgres://app:[URL_PASSWORD_1]@db.example.com/x"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer [BEARER_TOKEN_1]"),
        ("hooks.slack.com/services/T0ABCDEF1/B0ABCDEF1/a1b2c3d4e5f6g7h8i9j0k1l2",
         "hooks.slack.com/services/[SLACK_TOKEN_1]"),
        ("DefaultEndpointsProtocol=https;AccountKey=" + "aB3" * 28 + "aB==;",
         "DefaultEndpointsProtocol=https;AccountKey=[AZURE_KEY_1];"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [AWS_KEY_1]"),
        ("-----BEGIN RSA PRIVATE KEY-----\\nMIIEpAIBAAKCAQEA7\\nabc", "[PRIVATE_KEY_1]\\nabc"),
        ("-----BEGIN EC PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7aaa\nEFGH\nThe end.", "[PRIVATE_KEY_1]\nThe end."),
        ("pay 4111 1111\n1111 1111 or 4111-1111-\r\n  1111-1111 now", "pay [CARD_1] or [CARD_1] now"),
        ("DE89 3704 0044\n0532 0130 00", "[IBAN_1]"),
        ("SSN 123-45-\n6789", "SSN [US_SSN_1]"),
        ("".join(f"{digit}\ufe0f\u20e3" for digit in "4111111111111111") + "!", "[CARD_1]!"),
        ("x \u00e9\u0332 " + "".join(f"{char}\u0332" for char in "bob@example.com") + " y",
         "x \u00e9\u0332 [EMAIL_1] y"),
        ("https://x.example/?to=jane.doe%40example%2Ecom&n=1", "https://x.example/?to=[EMAIL_1]&n=1"),
        ("jane%40corp.example@relay.example logs in", "[EMAIL_1] logs in"),
        ("jane%40corp.example@ logs in", "[EMAIL_1]@ logs in"),
        ("postgres://app:hun@ter2@db", "postgres://app:[URL_PASSWORD_1]@db"),
        ("postgres://app:h@nt@er2@db", "postgres://app:[URL_PASSWORD_1]@db"),
        ("postgres://app:hunter2@${HOST}/x", "postgres://app:[URL_PASSWORD_1]@${HOST}/x"),
        ("postgres://app:hunt/er2@{host}/x", "postgres://app:[URL_PASSWORD_1]@{host}/x"),
        ("postgres://app:hunt/er2@db/x and ftp://a:b@c", "postgres://app:[URL_PASSWORD_1]@db/x and ftp://a:[URL_PASSWORD_2]@c"),
        ("to 2001:db8::1, not ::1 or 10:30:45 or std::cout", "to [IP_ADDRESS_1], not ::1 or 10:30:45 or std::cout"),
    ],
)  # fmt: skip
def test_what_is_replaced_and_what_stays(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "@", "a@b", "@dataclass", "x@y.z1", "1.2.3.4.5", "10.5281/zenodo.1234567", "3.14159265358979",
     "1,234,567,890", "2021-03-04 10:22:33", "4111111111111112", "DE89370400440532013001",
     "sk-learn-contrib-project", "5105\n1051\n0510\n5100", "51051051\n05105100", "123\n45\n6789",
     "http://localhost:8080/users/@me", "100%40 of 40%",
     "bearer certificatesinstitutional", "1234567890", "+1", "550e8400-e29b-41d4-a716-446655440000", "[EMAIL_1]"],
)  # fmt: skip
def test_what_only_looks_alike_stays(text):
    result = REDACTOR.redact(text)
    assert (result.text, result.findings) == (text, ())


def test_numbers_that_a_text_has_already_are_not_given_again():
    assert redacted("[EMAIL_1] and bob@example.com") == "[EMAIL_1] and [EMAIL_2]"


def test_a_forged_placeholder_hides_nothing():
    assert "4111" not in redacted("[CARD_4111111111111111]")
    assert "bob@" not in redacted("[EMAIL_bob@example.com]")


def test_a_document_is_redacted_in_all_its_fields_with_one_numbering():
    document = Document(
        "from bob@example.com",
        id="bob@example.com",
        title="About [EMAIL_1] and bob@example.com",
        source_uri="https://u:s3cret@example.com/",
        acl=["bob@example.com"],
        metadata={"owner": "BOB@example.com", "year": 2024, "cc": ["ann@example.com", "nobody"], "ok": True},
    )
    result = redact_document(document, REDACTOR)
    clean = result.document
    assert clean.text == "from [EMAIL_2]"
    assert clean.title == "About [EMAIL_1] and [EMAIL_2]"
    assert clean.source_uri == "https://u:[URL_PASSWORD_1]@example.com/"
    assert dict(clean.metadata) == {"owner": "[EMAIL_2]", "year": 2024, "cc": ["[EMAIL_3]", "nobody"], "ok": True}
    assert (clean.id, clean.acl) == (document.id, document.acl)
    assert result.counts == {"EMAIL": 4, "URL_PASSWORD": 1}
    assert set(result.fields) == {"text", "title", "source_uri", "metadata.owner", "metadata.cc[0]"}
    assert redact_document(clean, REDACTOR).document == clean


def test_metadata_hides_nothing_in_keys_numbers_or_other_spellings():
    document = Document(
        "text",
        source_uri="mailto:jose%CC%81%40example.com?card=%34111111111111111",
        metadata={
            "jane@example.com": 1,
            "card": 4111111111111111,
            "also": [4111111111111111.0, 7, True, 1.5],
            "owner": "jose\u0301@example.com",
            "place": "Cafe\u0301, 100%20",
        },
    )
    result = redact_document(document, REDACTOR)
    assert result.document.source_uri == "mailto:[EMAIL_1]?card=[CARD_1]"
    assert dict(result.document.metadata) == {
        "[EMAIL_2]": 1,
        "card": "[CARD_1]",
        "also": ["[CARD_1]", 7, True, 1.5],
        "owner": "[EMAIL_1]",
        "place": "Cafe\u0301, 100%20",  # what holds nothing stays as it is
    }
    assert set(result.originals) == set(result.fields) - {"text"}
    for name, original in result.originals.items():
        for finding in result.fields[name].findings:
            assert original[finding.start : finding.end] in (
                "jos\u00e9@example.com",
                "jane@example.com",
                "4111111111111111",
            )
    assert redact_document(result.document, REDACTOR).document == result.document


def test_two_keys_that_become_one_are_refused_and_not_named():
    document = Document("text", metadata={"bob@example.com": 1, "BOB@example.com": 2})
    with pytest.raises(InputError, match="two keys") as refused:
        redact_document(document, REDACTOR)
    assert "bob" not in str(refused.value).lower()
    kept = Document("text", metadata={"[EMAIL_1]": 1, "bob@example.com": 2})
    assert dict(redact_document(kept, REDACTOR).document.metadata) == {"[EMAIL_1]": 1, "[EMAIL_2]": 2}


def test_recognisers_can_be_chosen_and_added():
    import re

    badge = Pattern("BADGE", re.compile(r"(?<!\w)B-\d{5}(?!\w)"))
    redactor = PatternRedactor((badge,))
    assert redactor.kinds == ("BADGE",)
    assert redactor.redact("B-12345 bob@example.com").text == "[BADGE_1] bob@example.com"
    assert PatternRedactor(()).redact("bob@example.com").text == "bob@example.com"


@pytest.mark.parametrize(
    ("seen", "plain"),
    [("\uff11\u0662\u09e9\U0001d7d2", "1234"), ("a\u200b\u202eb\ufeff", "ab"), ("\ufb01", "fi"),
     ("a\u2013b", "a-b"),
     ("a\u00a0b", "a b"), ("x\x00y", "xy"), ("\ud800", "\ud800"), ("a\nb\t", "a\nb\t"), ("\u2460", "1")],
)  # fmt: skip
def test_the_shadow_is_what_a_reader_sees(seen, plain):
    assert shadow_of(seen).text == plain


SIZE = 1_000_000
HOSTILE = {
    "at signs": "@",
    "a@": "a@",
    "dots": "a.a.a.",
    "domains": "x@a.",
    "digits": "1",
    "spaced digits": "4 ",
    "grouped digits": "4111 ",
    "nearly cards": "4111 1111 1111 1112 ",
    "dotted digits": "1.",
    "dashed": "0171-",
    "plus": "+1",
    "brackets": "(0)",
    "spaces": " ",
    "colons": "a:",
    "hex colons": "ab:c:",
    "begin": "-----BEGIN PRIVATE KEY-----\n",
    "sk": "sk-",
    "eyJ": "eyJ.eyJ",
    "eyJlong": "eyJaaaaaaaa.",
    "bearer": "bearer ",
    "bearer run": "bearer aaaaaaaaaaaaaaaaaaaaa ",
    "aws": "aws secret ",
    "url": "://a:",
    "ssn": "123-45-",
    "iban": "DE89 ",
    "hidden": "1\u200b",
    "wide": "\uff14",
    "letters": "a",
    "upper": "AKIA",
    "keys": "Key=",
    "placeholders": "[EMAIL_",
    "tel": "tel ",
    "at words": "(at)",
    "findings": "bob@example.com ",
    "phones": "0171 2345678 ",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_text_costs_linear_time(name):
    """Ten times the text may cost at most some thirty times the time; anything quadratic costs a hundred."""

    def seconds(size: int) -> float:
        text = (HOSTILE[name] * (size // len(HOSTILE[name]) + 1))[:size]
        started = time.perf_counter()
        REDACTOR.redact(text)
        return time.perf_counter() - started

    small = min(seconds(5_000) for _ in range(3))
    assert seconds(50_000) < 30 * small + 0.2


@pytest.mark.long
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_megabyte_of_hostile_text(name):
    text = (HOSTILE[name] * SIZE)[:SIZE]
    started = time.perf_counter()
    REDACTOR.redact(text)
    assert time.perf_counter() - started < 60
