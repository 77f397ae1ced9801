"""An index that redacts: what is found is in no byte of it, in no vector, and in no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from lir_agents import Document, LateInteractionIndex
from lir_agents.errors import ConfigError, InputError
from lir_agents.ingest.redact import PatternRedactor
from lir_agents.ingest.redact_base import OffsetMap, Redacted

SECRETS = {
    "mail": "wilhelmina.krakatoa@example.org",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "key": "AKIAIOSFODNN7EXAMPLE",
}
HIDDEN = "wilhel\u200bmina.kraka\u00adtoa@example.org"


def memo(**changed: object) -> Document:
    given = {
        "id": "memo",
        "title": f"Write to {SECRETS['mail']}",
        "text": f"# Pay\n\nPay {SECRETS['card']} or {SECRETS['iban']}; the key is {SECRETS['key']}.\n\n"
        f"Questions to {HIDDEN}.",
        "source_uri": f"https://firm.example/?from={SECRETS['mail']}",
        "metadata": {"contact": SECRETS["mail"], "cc": [SECRETS["mail"], "nobody"]},
    }
    return Document(**{**given, **changed})


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def found_in(data: bytes) -> list[str]:
    forms = {name: [value, value.replace(" ", ""), value.casefold()] for name, value in SECRETS.items()}
    forms["mail"] += ["krakatoa", HIDDEN]
    return [name for name, values in forms.items() if any(value.encode() in data for value in values)]


def test_redacted_words_are_in_no_byte_of_the_directory(tmp_path, encoder):
    path = tmp_path / "i.lir"
    with LateInteractionIndex.open(path, redactor=True, encoder=encoder) as index:
        assert index.add([memo(), Document(id="other", text="Nothing to hide.")]).failed == ()
        index.add([memo(text=f"Now only {SECRETS['mail']}.")])
        assert found_in(everything(path)) == []
        hits = index.search("which key, which card, questions to whom", k=10)
        assert found_in(repr([hit.to_dict() for hit in hits]).encode()) == []
        stored = index.get("memo", 1)
        assert "Pay [CARD_1] or [IBAN_1]" in stored.text
        assert stored.metadata == {"contact": "[EMAIL_1]", "cc": ["[EMAIL_1]", "nobody"]}
        assert hits[0].explain().query
    assert found_in(everything(path)) == []
    assert found_in("\n".join(encoder.documents).encode()) == []


def test_what_was_replaced_is_counted_in_the_log(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "i.lir", redactor=True, encoder=encoder) as index:
        index.add([memo(), Document(id="other", text="Nothing to hide.")])
        index.add([memo(text="Nothing in the text.")])
        first, second = index.audit.events(kind="redaction")
        assert first.payload["document"] == {"document_id": "memo"}
        assert first.payload["version"] == 1
        assert first.payload["counts"].items() >= {"CARD": 1, "IBAN": 1}.items()
        assert first.payload["counts"]["EMAIL"] == 5
        assert (second.payload["version"], set(second.payload["counts"])) == (2, {"EMAIL"})
        assert index.add([memo(text="Nothing in the text.")]).unchanged == 1
        assert len(index.audit.events(kind="redaction")) == 2


def test_an_id_derived_from_the_content_does_not_tell_it(quick_path, encoder):
    """Whoever guesses the redacted value could check the guess against a digest of the original."""
    with LateInteractionIndex.open(quick_path / "i.lir", redactor=True, encoder=encoder) as index:
        assert index.add([{"text": "Write to anna@example.org."}]).added == 1
        assert index.add([{"text": "Write to bert@example.org."}]).unchanged == 1


def test_it_is_off_unless_asked_for_and_fixed_when_the_index_is_made(quick_path, encoder):
    with LateInteractionIndex.open(quick_path / "off.lir", encoder=encoder) as index:
        index.add([memo()])
        assert SECRETS["key"] in index.get("memo").text
    with pytest.raises(InputError, match="redactor"):
        LateInteractionIndex.open(quick_path / "off.lir", redactor=True, encoder=encoder)
    with LateInteractionIndex.open(quick_path / "on.lir", redactor=PatternRedactor(), encoder=encoder):
        pass
    with LateInteractionIndex.open(quick_path / "on.lir", encoder=encoder) as index:
        index.add([memo()])
        assert SECRETS["key"] not in index.get("memo").text
    with pytest.raises(InputError, match="redactor"):
        LateInteractionIndex.open(quick_path / "bad.lir", redactor="patterns", encoder=encoder)


class Shouting:
    """A redactor of one's own."""

    def redact(self, text, ledger=None):
        return Redacted(text.replace("secret", "[SECRET_1]"), (), OffsetMap())


def test_a_redactor_of_ones_own_has_to_be_passed_again(quick_path, encoder):
    path = quick_path / "own.lir"
    with LateInteractionIndex.open(path, redactor=Shouting(), encoder=encoder) as index:
        index.add([{"id": "a", "text": "This is a secret."}])
        assert index.get("a").text == "This is a [SECRET_1]."
    with pytest.raises(ConfigError, match="Shouting"):
        LateInteractionIndex.open(path, encoder=encoder)
    with pytest.raises(InputError, match="redactor"):
        LateInteractionIndex.open(path, redactor=True, encoder=encoder)
    LateInteractionIndex.open(path, redactor=Shouting(), encoder=encoder).close()
