"""Recognisers of other libraries behind the same port: Presidio for people and places, detect-secrets for keys.

    PatternRedactor((*DEFAULT_RECOGNISERS, DetectSecrets(), Presidio()))

Both see the shadow of the text, so that disguises are undone for them too.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lir_agents.errors import ConfigError, MissingExtra
from lir_agents.ingest.redact_base import Match
from lir_agents.ingest.redact_shadow import MASK

__all__ = ["DETECTORS", "DetectSecrets", "Presidio"]

DETECTORS = {
    "ArtifactoryDetector": "ARTIFACTORY_TOKEN",
    "BasicAuthDetector": "URL_PASSWORD",
    "CloudantDetector": "CLOUDANT_KEY",
    "DiscordBotTokenDetector": "DISCORD_TOKEN",
    "IbmCloudIamDetector": "IBM_KEY",
    "IbmCosHmacDetector": "IBM_KEY",
    "MailchimpDetector": "MAILCHIMP_KEY",
    "NpmDetector": "NPM_TOKEN",
    "SendGridDetector": "SENDGRID_KEY",
    "SoftlayerDetector": "SOFTLAYER_KEY",
    "SquareOAuthDetector": "SQUARE_TOKEN",
    "TelegramBotTokenDetector": "TELEGRAM_TOKEN",
    "TwilioKeyDetector": "TWILIO_KEY",
}
"""Detectors of detect-secrets that add to the default recognisers, by the kind they find. Those that measure
entropy or look for words such as "secret" are left out: in prose they mostly find prose."""

_PIECE = 50_000  # characters per call of Presidio, whose tokenizer refuses texts of more than a million


def _module(name: str, feature: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(feature, extra="redaction") from error


def _pieces(text: str, size: int) -> Iterator[tuple[int, str]]:
    """The text in pieces that end at a line's end where there is one, with the offset of each."""
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        newline = text.rfind("\n", start, end)
        end = newline + 1 if newline > start and end < len(text) else end
        yield start, text[start:end]
        start = end


class DetectSecrets:
    """Detectors of detect-secrets, line by line, without its global settings and without verification.

    Args:
        detectors: Class name of the detector to the kind it finds; see `DETECTORS`.

    Raises:
        MissingExtra: detect-secrets is not installed.
        ConfigError: It has no detector of that name.
    """

    def __init__(self, detectors: dict[str, str] | None = None) -> None:
        chosen = DETECTORS if detectors is None else detectors
        plugins = _module("detect_secrets.core.plugins.util", "DetectSecrets")
        classes = {cls.__name__: cls for cls in plugins.get_mapping_from_secret_type_to_class().values()}
        unknown = sorted(set(chosen) - set(classes))
        if unknown:
            raise ConfigError(
                f"detect-secrets has no {', '.join(unknown)}",
                setting="detectors",
                remedy=f"Choose from {', '.join(sorted(classes))}.",
            )
        self._detectors = [(kind, classes[name]()) for name, kind in chosen.items()]
        self.kinds = tuple(dict.fromkeys(chosen.values()))

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        for line in re.finditer(r"[^\n]+", shadow):
            reached = line.start()
            for match in sorted(self._in_line(shadow, line), key=lambda match: match.start):
                if match.start >= reached:
                    reached = match.end
                    yield match

    def _in_line(self, shadow: str, line: re.Match[str]) -> Iterator[Match]:
        for kind, detector in self._detectors:
            for secret in set(detector.analyze_string(line[0])):
                start = shadow.find(secret, line.start(), line.end())
                while secret and MASK not in secret and start >= 0:
                    yield Match(kind, start, start + len(secret), secret)
                    start = shadow.find(secret, start + len(secret), line.end())


class Presidio:
    """An analyzer of Presidio; by default its rules over a blank tokenizer, with no model and no network.

    Args:
        analyzer: A `presidio_analyzer.AnalyzerEngine` of your own, e.g. with a model that knows names.
        language: Of the texts.
        entities: What to look for, in Presidio's words; each becomes a kind.
        threshold: Least confidence in [0, 1].

    Raises:
        MissingExtra: presidio-analyzer is not installed.
    """

    def __init__(
        self,
        analyzer: Any = None,
        *,
        language: str = "en",
        entities: Sequence[str] = ("CRYPTO", "MEDICAL_LICENSE", "US_BANK_NUMBER", "US_ITIN", "US_PASSPORT"),
        threshold: float = 0.5,
    ) -> None:
        self._analyzer = analyzer if analyzer is not None else _blank_analyzer(language)
        self._language, self._entities, self._threshold = language, list(entities), threshold
        self.kinds = tuple(entities)

    def find(self, shadow: str) -> Iterator[Match]:
        """See `Recogniser.find`."""
        for offset, piece in _pieces(shadow, _PIECE):
            results = self._analyzer.analyze(piece, language=self._language, entities=self._entities)
            sound = [result for result in results if result.score >= self._threshold]
            reached = 0
            for result in sorted(sound, key=lambda result: (result.start, -result.end)):
                value = piece[result.start : result.end]
                if result.start >= reached and value and MASK not in value:
                    reached = result.end
                    yield Match(result.entity_type, offset + result.start, offset + result.end, value.casefold())


def _blank_analyzer(language: str) -> Any:
    presidio = _module("presidio_analyzer", "Presidio")
    engines = _module("presidio_analyzer.nlp_engine", "Presidio")
    spacy = _module("spacy", "Presidio")
    tldextract = _module("tldextract", "Presidio")
    # Presidio checks hosts by the public suffix list, which its library would fetch; the list that comes with
    # the library does.
    tldextract.tldextract.TLD_EXTRACTOR.suffix_list_urls = ()
    engine = engines.SpacyNlpEngine(models=[{"lang_code": language, "model_name": "blank"}])
    engine.nlp = {language: spacy.blank(language)}
    return presidio.AnalyzerEngine(nlp_engine=engine, supported_languages=[language])
