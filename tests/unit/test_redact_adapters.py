"""Presidio and detect-secrets behind the port, where they are installed; the right error where they are not."""

from __future__ import annotations

import importlib.util
import socket
import sys

import pytest

from lir_agents.errors import ConfigError, MissingExtra
from lir_agents.ingest.redact import DEFAULT_RECOGNISERS, PatternRedactor
from lir_agents.ingest.redact_adapters import DETECTORS, DetectSecrets, Presidio

HAS_DETECT_SECRETS = importlib.util.find_spec("detect_secrets") is not None
HAS_PRESIDIO = importlib.util.find_spec("presidio_analyzer") is not None
EXTRA = "pip install 'lir-agents[redaction]'"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network call")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("make", [DetectSecrets, Presidio])
def test_the_pip_line_is_named_when_the_library_is_missing(make, monkeypatch):
    for name in ("detect_secrets", "detect_secrets.core.plugins.util", "presidio_analyzer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"lir-agents\[redaction\]") as missing:
        make()
    assert missing.value.extra == "redaction"


@pytest.mark.skipif(not HAS_DETECT_SECRETS, reason=EXTRA)
def test_detect_secrets_adds_keys_and_leaves_prose_alone(offline):
    redactor = PatternRedactor((*DEFAULT_RECOGNISERS, DetectSecrets()))
    key = "SG." + "a1B2c3D4e5F6g7H8i9J0k1" + "." + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V"
    text = f"mail key {key[:5]}\u200b{key[5:]} and bob@example.com\nand a secret about passwords, nothing else"
    result = redactor.redact(text)
    assert result.text == ("mail key [SENDGRID_KEY_1] and [EMAIL_1]\nand a secret about passwords, nothing else")
    assert redactor.redact(result.text).text == result.text


@pytest.mark.skipif(not HAS_DETECT_SECRETS, reason=EXTRA)
def test_detectors_are_chosen_by_name():
    assert set(DetectSecrets().kinds) == set(DETECTORS.values())
    assert DetectSecrets({"TwilioKeyDetector": "TWILIO_KEY"}).kinds == ("TWILIO_KEY",)
    with pytest.raises(ConfigError, match="NoSuchDetector"):
        DetectSecrets({"NoSuchDetector": "X"})


@pytest.mark.skipif(not HAS_PRESIDIO, reason=EXTRA)
def test_presidio_works_without_a_model_and_without_network(offline):
    entities = ("CRYPTO", "EMAIL_ADDRESS", "URL")
    redactor = PatternRedactor((Presidio(entities=entities),))
    text = "pay 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ or write to bob@exa\u200bmple.com\n" * 3
    result = redactor.redact(text)
    assert result.text == "pay [CRYPTO_1] or write to [EMAIL_ADDRESS_1]\n" * 3
    assert redactor.redact(result.text).text == result.text


@pytest.mark.skipif(not HAS_PRESIDIO, reason=EXTRA)
def test_presidio_beside_the_default_recognisers(offline):
    redactor = PatternRedactor((*DEFAULT_RECOGNISERS, Presidio()))
    text = "x " * 60_000 + "bob@example.com, bitcoin 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ"
    assert redactor.redact(text).text.endswith("x [EMAIL_1], bitcoin [CRYPTO_1]")
