"""Redaction at ingestion: what is found is replaced before any store, vector, log or trace sees the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
        fields: Redacted text by field: "text", "title", "source_uri", "source", and "metadata.KEY" for metadata
            that held something.
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
    for value in document.metadata.values():
        yield from (
            item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, str)
        )


def redact_document(document: Document, redactor: Redactor) -> RedactedDocument:
    """Redacts text, title, source and every string in the metadata, with one numbering for all of them.

    Left as they are: the id, by which its owner knows the document, and the ACL, which is compared exactly and
    shown to nobody.
    """
    ledger = Ledger()
    ledger.reserve(_ANY_PLACEHOLDER.finditer("\n".join(_strings(document))))
    fields: dict[str, Redacted] = {}
    originals: dict[str, str] = {}

    def clean(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [clean(f"{name}[{place}]", item) for place, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        redacted = redactor.redact(value, ledger)
        if redacted.findings or name == "text":
            fields[name] = redacted
        if redacted.findings:
            originals[name] = value
        return redacted.text

    changed = {name: clean(name, getattr(document, name)) for name in ("text", "title", "source_uri", "source")}
    metadata = {key: clean(f"metadata.{key}", value) for key, value in document.metadata.items()}
    return RedactedDocument(replace(document, **changed, metadata=metadata), fields, originals)
