"""Redaction at ingestion: what is found is replaced before any store, vector, log or trace sees the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from lir_agents.errors import InputError
from lir_agents.ingest.redact_base import Finding, Ledger, Match, OffsetMap, Recogniser, Redacted, Redactor
from lir_agents.ingest.redact_personal import PERSONAL
from lir_agents.ingest.redact_secrets import SECRETS
from lir_agents.ingest.redact_shadow import MASK, shadow_of
from lir_agents.types import Document

__all__ = ["DEFAULT_RECOGNISERS", "PatternRedactor", "RedactedDocument", "redact_document"]

DEFAULT_RECOGNISERS: tuple[Recogniser, ...] = (*SECRETS, *PERSONAL)
"""In order of precedence: what an earlier one found, a later one does not see."""

_ROUNDS = 4  # one finds everything, one more confirms it; a foreign recogniser may need another


class PatternRedactor:
    """Replaces what its recognisers find by typed, numbered placeholders such as ``[EMAIL_1]``.

    The same value has the same number within a document, so that a reader still sees who is who.

    Args:
        recognisers: In order of precedence; the default ones, more, or fewer.
    """

    def __init__(self, recognisers: Sequence[Recogniser] = DEFAULT_RECOGNISERS) -> None:
        self._recognisers = tuple(recognisers)
        kinds = sorted({kind for recogniser in recognisers for kind in recogniser.kinds}, key=len, reverse=True)
        self._placeholder = re.compile(rf"\[({'|'.join(map(re.escape, kinds)) or '(?!)'})_(\d{{1,6}})\]")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that placeholders can name."""
        return tuple(dict.fromkeys(kind for recogniser in self._recognisers for kind in recogniser.kinds))

    def redact(self, text: str, ledger: Ledger | None = None) -> Redacted:
        """See `Redactor.redact`. Linear in the length of the text."""
        ledger = ledger or Ledger()
        ledger.reserve(self._placeholder.finditer(text))
        shadow = shadow_of(text)
        findings: list[Finding] = []
        reached = 0
        for match in sorted(self._matches(shadow.text), key=lambda match: match.start):
            start, end = shadow.original(match.start, match.end)
            start = max(start, reached)  # two matches can meet within one original character, such as a ligature
            reached = end
            findings.append(Finding(match.kind, start, end, ledger.placeholder(match.kind, match.value)))
        return Redacted(_replaced(text, findings), tuple(findings), OffsetMap.of(findings))

    def _matches(self, shadow: str) -> list[Match]:
        masked = self._placeholder.sub(lambda found: MASK * len(found[0]), shadow)
        everything: list[Match] = []
        for _ in range(_ROUNDS):
            before = len(everything)
            for recogniser in self._recognisers:
                matches = list(recogniser.find(masked))
                if matches:
                    everything += matches
                    masked = _masked(masked, matches)
            if len(everything) == before:
                break
        return everything


def _masked(shadow: str, matches: Sequence[Match]) -> str:
    pieces, reached = [], 0
    for match in matches:
        pieces += [shadow[reached : match.start], MASK * (match.end - match.start)]
        reached = match.end
    return "".join([*pieces, shadow[reached:]])


def _replaced(text: str, findings: Sequence[Finding]) -> str:
    pieces, reached = [], 0
    for finding in findings:
        pieces += [text[reached : finding.start], finding.placeholder]
        reached = finding.end
    return "".join([*pieces, text[reached:]])


@dataclass(frozen=True, slots=True)
class RedactedDocument:
    """A document without what was found in it, and per field what was found.

    Attributes:
        document: The document to store.
        fields: Redacted text by field: "text", "title", "source_uri", "source", and for metadata that held
            something "metadata.KEY" and "the key KEY", with the key as it is redacted.
        originals: The text before, by field, where something was found: for a vault, and for nothing else.
    """

    document: Document
    fields: Mapping[str, Redacted]
    originals: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Findings by kind: what an audit event or a metric may say."""
        counts: dict[str, int] = {}
        for redacted in self.fields.values():
            for finding in redacted.findings:
                counts[finding.kind] = counts.get(finding.kind, 0) + 1
        return counts


_ANY_PLACEHOLDER = re.compile(r"\[([A-Z][A-Z_]{0,40})_(\d{1,6})\]")


def _strings(document: Document) -> Iterator[str]:
    yield from (document.text, document.title, document.source_uri, document.source)
    for key, value in document.metadata.items():
        yield key
        yield from (
            item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, str)
        )


def _readings(name: str, value: Any) -> Iterator[str]:
    """What a field says: a number, its digits; a string, itself, its letters composed, or as the address of the web
    that it may be."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str):
        yield str(value)
        return
    value = value if name == "text" else unicodedata.normalize("NFC", value)  # as the text is already
    yield value
    if name != "text" and "%" in value:
        yield unicodedata.normalize("NFC", unquote(value))


def redact_document(document: Document, redactor: Redactor) -> RedactedDocument:
    """Redacts text, title, source and the metadata, its keys too, with one numbering for all of them.

    A number in which something was found becomes the placeholder; an address of the web in which it was only found
    once it was decoded stays decoded.

    Left as they are: the id, by which its owner knows the document, and the ACL, which is compared exactly and
    shown to nobody.

    Raises:
        InputError: Two keys of the metadata cannot be told apart once they are redacted.
    """
    ledger = Ledger()
    ledger.reserve(_ANY_PLACEHOLDER.finditer("\n".join(_strings(document))))
    fields: dict[str, Redacted] = {}
    originals: dict[str, str] = {}

    def clean(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [clean(f"{name}[{place}]", item) for place, item in enumerate(value)]
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            return value
        original, *others = _readings(name, value)
        if others:  # tried without the ledger: what is not stored takes no number; of equals, the first
            original = max((original, *others), key=lambda reading: len(redactor.redact(reading).findings))
        redacted = redactor.redact(original, ledger)
        if redacted.findings or name == "text":
            fields[name] = redacted
        if redacted.findings:
            originals[name] = original
        return value if redacted.text == original else redacted.text

    def named(key: str) -> str:
        original = unicodedata.normalize("NFC", key)
        redacted = redactor.redact(original, ledger)
        if redacted.findings:
            fields[f"the key {redacted.text}"] = redacted
            originals[f"the key {redacted.text}"] = original
        return key if redacted.text == original else redacted.text

    changed = {name: clean(name, getattr(document, name)) for name in ("text", "title", "source_uri", "source")}
    metadata: dict[str, Any] = {}
    for key, value in document.metadata.items():
        name = named(key)
        if name in metadata:
            raise InputError(
                "holds two keys that are one once they are redacted", field="metadata", remedy="Rename one of them."
            )
        metadata[name] = clean(f"metadata.{name}", value)
    return RedactedDocument(replace(document, **changed, metadata=metadata), fields, originals)
