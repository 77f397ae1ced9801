"""Recall and precision of every recogniser on a seeded set, plain and obfuscated, with decoys and no network.

`python -m tests.unit.test_redact_quality` prints the table that docs/redaction.md shows.
"""

from __future__ import annotations

import base64
import random
import socket
import string
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lir_agents.ingest.redact import PatternRedactor
from lir_agents.ingest.redact_checks import IBAN_LENGTHS

SEED = 20_240_607
PER_KIND = 120
UPPER, LOWER, DIGITS = string.ascii_uppercase, string.ascii_lowercase, string.digits
ALNUM = UPPER + LOWER + DIGITS
Make = Callable[[random.Random], str]


def chars(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def token(rng: random.Random, count: int, alphabet: str = ALNUM) -> str:
    return chars(rng, alphabet, count - 2) + rng.choice(UPPER) + rng.choice(DIGITS)


# ------------------------------------------------- makers, written apart from the checks that they try


def email(rng: random.Random) -> str:
    name = rng.choice(["anna", "j.smith", "lee_42", "o'hara", "x", "marie-claire", "büro", "dev+test", "иван"])
    host = rng.choice(["example.com", "mail.example.co.uk", "uni-köln.de", "a.io", "sub.dom.example.museum"])
    return f"{name}{rng.randrange(100)}@{host}"


def luhn_digit(body: str) -> str:
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(body)))
    return str(-total % 10)


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16)]
    )
    body = prefix + chars(rng, DIGITS, length - len(prefix) - 1)
    number = body + luhn_digit(body)
    if length == 15:
        return rng.choice([number, f"{number[:4]} {number[4:10]} {number[10:]}"])
    separator = rng.choice(["", " ", "-", "."])
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


def mod97(text: str) -> int:
    remainder = 0
    for char in text:
        for digit in str(int(char, 36)):
            remainder = (remainder * 10 + int(digit)) % 97
    return remainder


def iban(rng: random.Random) -> str:
    country = rng.choice(["DE", "GB", "FR", "NL", "ES", "IT", "CH", "PL", "NO", "MT"])
    body = chars(rng, DIGITS if country in ("DE", "ES", "PL", "NO") else DIGITS + UPPER, IBAN_LENGTHS[country] - 4)
    number = f"{country}{98 - mod97(body + country + '00'):02d}{body}"
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4)), number.lower()])


def phone(rng: random.Random) -> str:
    d = lambda n: chars(rng, DIGITS, n)  # noqa: E731
    area, exchange = f"{rng.randrange(200, 989)}", f"{rng.randrange(200, 999)}"
    return rng.choice(
        [
            f"+49 {rng.choice(['30', '171', '6221'])} {d(7)}",
            f"+49 (0){rng.choice(['30', '171'])} {d(4)}-{d(3)}",
            f"+1 ({area}) {exchange}-{d(4)}",
            f"+1{area}{exchange}{d(4)}",
            f"({area}) {exchange}-{d(4)}",
            f"{area}-{exchange}-{d(4)}",
            f"{area}.{exchange}.{d(4)}",
            f"+44 20 {d(4)} {d(4)}",
            f"020 {d(4)} {d(4)}",
            f"07{d(3)} {d(6)}",
            f"+33 {rng.randrange(1, 10)} {d(2)} {d(2)} {d(2)} {d(2)}",
            f"0{rng.randrange(1, 10)} {d(2)} {d(2)} {d(2)} {d(2)}",
            f"0{rng.choice(['30', '89', '171', '6221'])}/{d(7)}",
            f"0049 {rng.choice(['30', '171'])} {d(7)}",
            f"+91-{rng.randrange(70, 99)}{d(3)}-{d(5)}",
        ]
    )


def ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return rng.choice("- ").join([f"{area:03d}", f"{rng.randrange(1, 100):02d}", f"{rng.randrange(1, 10000):04d}"])


def nino(rng: random.Random) -> str:
    prefix = rng.choice(["AB", "CE", "JK", "PR", "WX", "HN", "YZ", "SE"])
    parts = [prefix, *(chars(rng, DIGITS, 2) for _ in range(3)), rng.choice("ABCD")]
    return rng.choice(["", " "]).join(parts)


def tax_id(rng: random.Random) -> str:
    digits = rng.sample(DIGITS, 9)
    digits.insert(rng.randrange(1, 9), rng.choice(digits))
    if digits[0] == "0":
        return tax_id(rng)
    product = 10
    for digit in digits:
        total = (int(digit) + product) % 10
        product = (total or 10) * 2 % 11
    number = "".join(digits) + str((11 - product) % 10)
    return rng.choice([number, f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"])


def nir(rng: random.Random) -> str:
    department = rng.choice(["75", "13", "2A", "2B", "59", "99"])
    parts = [rng.choice("12"), f"{rng.randrange(100):02d}", f"{rng.randrange(1, 13):02d}", department,
             chars(rng, DIGITS, 3), chars(rng, DIGITS, 3)]  # fmt: skip
    number = int("".join(parts).replace("2A", "19").replace("2B", "18"))
    return rng.choice(["", " "]).join([*parts, f"{97 - number % 97:02d}"])


def spanish(rng: random.Random) -> str:
    letters, number = "TRWAGMYFPDXBNJZSQVHLCKE", rng.randrange(10_000_000)
    lead = rng.choice(["1", "4", "7", "X", "Y", "Z"])
    value = int({"X": "0", "Y": "1", "Z": "2"}.get(lead, lead) + f"{number:07d}")
    return f"{lead}{number:07d}{rng.choice(['', '-'])}{letters[value % 23]}"


def italian(rng: random.Random) -> str:
    odd = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
    body = (chars(rng, UPPER, 6) + f"{rng.randrange(100):02d}" + rng.choice("ABCDEHLMPRST")
            + f"{rng.randrange(1, 72):02d}" + rng.choice("ABCDEFGHIL") + chars(rng, DIGITS, 3))  # fmt: skip
    value = [int(char) if char.isdigit() else ord(char) - 65 for char in body]
    total = sum(odd[v] if place % 2 == 0 else v for place, v in enumerate(value))
    return body + UPPER[total % 26]


def address(rng: random.Random) -> str:
    if rng.random() < 0.6:
        first = rng.choice([10, 84, 172, 192, 203])
        return f"{first}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    groups = [f"{rng.randrange(1, 65536):x}" for _ in range(6)]
    return rng.choice(["2001:db8:" + ":".join(groups), f"2001:db8::{groups[0]}:{groups[1]}", f"fe80::{groups[0]}"])


def jwt(rng: random.Random) -> str:
    parts = ('{"alg":"HS256","typ":"JWT"}', '{"sub":"' + token(rng, 12) + '"}')
    head, body = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{body}.{token(rng, 43)}"


def pem(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED "])
    body = "\n".join(chars(rng, ALNUM + "+/", 64) for _ in range(rng.randrange(2, 6)))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"


MAKERS: dict[str, list[Make]] = {
    "EMAIL": [email],
    "PHONE": [phone],
    "CARD": [card],
    "IBAN": [iban],
    "US_SSN": [ssn],
    "UK_NINO": [nino],
    "DE_TAX_ID": [tax_id],
    "FR_NIR": [nir],
    "ES_ID": [spanish],
    "IT_CF": [italian],
    "IP_ADDRESS": [address],
    "AWS_KEY": [lambda rng: rng.choice(["AKIA", "ASIA"]) + chars(rng, UPPER + "234567", 16)],
    "GCP_KEY": [lambda rng: "AIza" + token(rng, 35)],
    "AZURE_KEY": [lambda rng: token(rng, 3) + rng.choice("78") + "Q~" + token(rng, 34)],
    "GITHUB_TOKEN": [
        lambda rng: rng.choice(["ghp_", "gho_", "ghs_"]) + token(rng, 36),
        lambda rng: "github_pat_" + token(rng, 22) + "_" + token(rng, 59),
    ],
    "GITLAB_TOKEN": [lambda rng: "glpat-" + token(rng, 20)],
    "SLACK_TOKEN": [lambda rng: f"xox{rng.choice('bpa')}-{chars(rng, DIGITS, 12)}-{token(rng, 24)}"],
    "STRIPE_KEY": [lambda rng: rng.choice(["sk_live_", "rk_live_", "sk_test_"]) + token(rng, 24)],
    "API_KEY": [lambda rng: rng.choice(["sk-", "sk-proj-", "sk-ant-"]) + token(rng, 48)],
    "JWT": [jwt],
    "PRIVATE_KEY": [pem],
}
BEFORE_KIND: dict[str, Make] = {
    "BEARER_TOKEN": lambda rng: rng.choice(["Authorization: Bearer ", "bearer ", "authorization: Basic "]),
    "URL_PASSWORD": lambda rng: rng.choice(["postgres", "https", "amqp"]) + "://svc:",
}
AFTER_KIND = {"URL_PASSWORD": "@db.internal:5432/x"}
MAKERS["BEARER_TOKEN"] = [lambda rng: token(rng, 32)]
MAKERS["URL_PASSWORD"] = [lambda rng: token(rng, 12) + "!"]

# ---------------------------------------------------------------- disguises


def zero_width(rng: random.Random, text: str) -> str:
    hidden = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202a\u202e\u2066\u180e"
    return "".join(char + (rng.choice(hidden) if rng.random() < 0.3 and i + 1 < len(text) else "")
                   for i, char in enumerate(text))  # fmt: skip


def full_width(rng: random.Random, text: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" and rng.random() < 0.7 else char for char in text)


def other_digits(rng: random.Random, text: str) -> str:
    zero = rng.choice([0x660, 0x6F0, 0x966, 0xFF10, 0x1D7CE, 0x1D7F6])
    return "".join(chr(zero + int(char)) if char in DIGITS else char for char in text)


def other_separators(rng: random.Random, text: str) -> str:
    table = {
        "-": rng.choice("\u2010\u2011\u2013\u2212"),
        " ": rng.choice("\u00a0\u2009\u202f\u3000"),
        ".": "\u3002",
    }
    return "".join(table.get(char, char) for char in text)


def spelled(rng: random.Random, text: str) -> str:
    at, dot = rng.choice([(" (at) ", "."), ("[at]", "[dot]"), (" [AT] ", " [DOT] "), ("(at)", " (dot) ")])
    local, _, host = text.partition("@")
    return local + at + host.replace(".", dot)


NUMBERS = {"PHONE", "CARD", "IBAN", "US_SSN", "DE_TAX_ID", "FR_NIR"}
PROSE = [
    "please note that", "as agreed on 03.04.2021,", "see section 4.2.1 of", "the value is", "kontakt:",
    "from 10:30 to 11:45", "она сказала", "注文番号は", "in 2019 there were 1,234,567 of", "(ref. 88-1203)",
    "x = y[3] + 12;",
]  # fmt: skip


def disguised(rng: random.Random, kind: str, text: str) -> str:
    choices = [lambda r, t: t, lambda r, t: t, zero_width]
    if kind not in ("PRIVATE_KEY", "URL_PASSWORD"):
        choices.append(full_width)
    if kind in NUMBERS:
        choices += [other_digits, other_separators]
    if kind == "EMAIL":
        choices += [spelled, spelled]
    return rng.choice(choices)(rng, text)


# ---------------------------------------------------------------- decoys: what must be left alone


def wrong(number: str, rng: random.Random) -> str:
    place = rng.choice([i for i, char in enumerate(number) if char.isdigit()][-6:])
    return number[:place] + str((int(number[place]) + rng.randrange(1, 9)) % 10) + number[place + 1 :]


DECOYS: list[Make] = [
    lambda rng: wrong(card(rng), rng),
    lambda rng: wrong(iban(rng), rng).upper(),
    lambda rng: f"{rng.choice(['000', '666', '912'])}-12-{chars(rng, DIGITS, 4)}",
    lambda rng: (
        f"{rng.randrange(1, 29):02d}.{rng.randrange(1, 13):02d}.20{rng.randrange(10, 25)} {rng.randrange(9):02d}:15"
    ),
    lambda rng: f"20{rng.randrange(10, 25)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}T10:20:30Z",
    lambda rng: f"version {rng.randrange(9)}.{rng.randrange(20)}.{rng.randrange(9)}.{rng.randrange(9)}",
    lambda rng: "127.0.0.1" if rng.random() < 0.5 else "0.0.0.0:8080",
    lambda rng: f"{chars(rng, '0123456789abcdef', 40)}",
    lambda rng: f"ISBN 978-3-{chars(rng, DIGITS, 2)}-{chars(rng, DIGITS, 6)}-{rng.randrange(10)}",
    lambda rng: f"pages {rng.randrange(100, 900)}-{rng.randrange(900, 999)}",
    lambda rng: f"{rng.randrange(1, 999):,},{rng.randrange(1000):03d}.50 EUR",
    lambda rng: f"3.{chars(rng, DIGITS, 14)}",
    lambda rng: f"@{rng.choice(['dataclass', 'property', 'example', 'anna'])} def f()",
    lambda rng: f"std::vector<int> a::b {rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}",
    lambda rng: f"order {chars(rng, '123456789', 1)}{chars(rng, DIGITS, 7)}",
    lambda rng: f"sk-{'-'.join(['learn', 'image', 'video', 'surprise', 'lego'][: rng.randrange(1, 5)])}",
    lambda rng: "the bearer of these certificates is entitled",
    lambda rng: f"eyJust.kidding.{chars(rng, LOWER, 4)}",
    lambda rng: (
        f"{rng.randrange(16**8):08x}-{rng.randrange(16**4):04x}-4{rng.randrange(16**3):03x}-a{rng.randrange(16**3):03x}-"
        f"{rng.randrange(16**12):012x}"
    ),
    lambda rng: f"[{rng.randrange(9)}, {rng.randrange(99)}, {rng.randrange(999)}] * 1e{rng.randrange(9)}",
    lambda rng: f"[EMAIL_{rng.randrange(1, 9)}] [PHONE_1]",
    lambda rng: f"https://example.org:8443/{chars(rng, LOWER, 5)}?page={rng.randrange(99)}",
    lambda rng: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
]


@dataclass(slots=True)
class Tally:
    planted: int = 0
    found: int = 0
    reported: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def precision(self) -> float:
        return self.right / self.reported if self.reported else 0.0


def documents(seed: int) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Texts with the spans that were planted in them: each kind about `PER_KIND` times, as many decoys."""
    rng = random.Random(seed)
    kinds = [kind for kind in MAKERS for _ in range(PER_KIND)]
    rng.shuffle(kinds)
    texts = []
    for start in range(0, len(kinds), 4):
        text, spans = "", []
        for kind in kinds[start : start + 4]:
            text += f"{rng.choice(PROSE)} {rng.choice(DECOYS)(rng)}, {rng.choice(PROSE)} "
            text += BEFORE_KIND[kind](rng) if kind in BEFORE_KIND else ""
            secret = disguised(rng, kind, rng.choice(MAKERS[kind])(rng))
            spans.append((kind, len(text), len(text) + len(secret)))
            text += secret + AFTER_KIND.get(kind, "") + rng.choice([", ", "; ", "\n", " | ", ")\n"])
        texts.append((text, spans))
    return texts


def measure(seed: int = SEED) -> dict[str, Tally]:
    """A planted span is found when all of it is gone; a finding is right when it meets one planted of its kind."""
    tallies = {kind: Tally() for kind in MAKERS}
    redactor = PatternRedactor()
    for text, spans in documents(seed):
        findings = redactor.redact(text).findings
        for kind, start, end in spans:
            tallies[kind].planted += 1
            tallies[kind].found += any(f.kind == kind and f.start <= start and end <= f.end for f in findings)
        for f in findings:
            tallies[f.kind].reported += 1
            tallies[f.kind].right += any(k == f.kind and f.start < e and s < f.end for k, s, e in spans)
    return tallies


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    return measure()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_recall_and_precision(tallies, kind):
    tally = tallies[kind]
    assert tally.planted == PER_KIND
    assert tally.recall >= 0.95, (kind, tally)
    assert tally.precision >= 0.95, (kind, tally)


def test_every_default_kind_is_measured():
    assert set(PatternRedactor().kinds) == set(MAKERS)


def test_no_network_is_touched(monkeypatch):
    called = []

    def refuse(*arguments, **_):
        called.append(arguments)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    redactor = PatternRedactor()
    assert any(redactor.redact(text).text != text for text, _ in documents(SEED)[:50])
    assert not called


def test_redacting_the_whole_set_twice_changes_nothing():
    redactor = PatternRedactor()
    for text, _ in documents(SEED + 1):
        once = redactor.redact(text).text
        again = redactor.redact(once)
        assert again.text == once, (text, once)
        assert again.findings == ()


def report() -> str:
    """The table of the documentation, over eight seeds that no test uses."""
    totals = {kind: Tally() for kind in MAKERS}
    for seed in range(101, 909, 101):
        for kind, tally in measure(seed).items():
            total = totals[kind]
            total.planted, total.found = total.planted + tally.planted, total.found + tally.found
            total.reported, total.right = total.reported + tally.reported, total.right + tally.right
    rows = [f"| {kind} | {t.planted} | {t.recall:.3f} | {t.precision:.3f} |" for kind, t in sorted(totals.items())]
    return "\n".join(["| kind | planted | recall | precision |", "|---|---:|---:|---:|", *rows])


if __name__ == "__main__":
    print(report())
