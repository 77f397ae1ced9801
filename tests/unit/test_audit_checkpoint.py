"""Checkpoints are signed notes; keys are for their owner only."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lir_agents.audit import AuditEvent, AuditLog, verify_consistency
from lir_agents.audit.checkpoint import Checkpoint
from lir_agents.audit.keys import load_or_create_key, load_public_key, public_pem
from lir_agents.errors import ConfigError, InputError, StoreError


@pytest.fixture
def key():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def log(tmp_path):
    with AuditLog.open(tmp_path / "audit.sqlite", clock_ns=lambda: 0) as opened:
        opened.append_many([AuditEvent("decision", payload={"n": n}) for n in range(5)])
        yield opened


def test_the_text_is_a_signed_note_that_others_can_check(log, key):
    lines = log.checkpoint(key).text().split("\n")
    assert lines[0] == log.origin
    assert lines[1] == "5"
    assert base64.b64decode(lines[2]) == log.root()
    assert lines[3] == "time 1970-01-01T00:00:00.000000Z"
    assert lines[4] == ""
    dash, name, signature = lines[5].split(" ")
    assert (dash, name) == ("—", log.origin)
    raw = base64.b64decode(signature)
    public = key.public_key()
    named = hashlib.sha256(f"{log.origin}\n\x01".encode() + public.public_bytes_raw()).digest()
    assert raw[:4] == named[:4]
    public.verify(raw[4:], ("\n".join(lines[:4]) + "\n").encode())


def test_both_forms_read_back(log, key):
    checkpoint = log.checkpoint(key)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint
    assert Checkpoint.parse(checkpoint.json()) == checkpoint
    assert checkpoint.signed_by(key.public_key())


def test_a_changed_checkpoint_is_not_signed(log, key):
    checkpoint = log.checkpoint(key)
    other = Ed25519PrivateKey.generate()
    for changed in (
        replace(checkpoint, size=4),
        replace(checkpoint, root=bytes(32)),
        replace(checkpoint, time="2000-01-01T00:00:00.000000Z"),
        replace(checkpoint, origin="another"),
        replace(checkpoint, signature=checkpoint.signature[:-1] + bytes([checkpoint.signature[-1] ^ 1])),
    ):
        assert not changed.signed_by(key.public_key())
        assert "signature" in {problem.code for problem in log.verify(changed, key.public_key()).problems}
    assert not checkpoint.signed_by(other.public_key())
    assert [p.code for p in log.verify(checkpoint, other.public_key()).problems] == ["signature"]


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"origin": 1, "size": []}', "a\n1\nx\n", "a" * 10_000])
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(InputError, match="checkpoint"):
        Checkpoint.parse(text)


def test_a_log_that_grew_agrees_with_its_earlier_checkpoint(log, key):
    before = log.checkpoint(key)
    log.append(AuditEvent("erasure"))
    after = log.checkpoint(key)
    proof = log.consistency_proof(before.size, after.size)
    assert verify_consistency(before.size, before.root, after.size, after.root, proof)
    report = log.verify(before, key.public_key())
    assert (report.ok, report.size, report.checkpoint_size) == (True, 6, 5)
    assert report.root == after.root.hex()
    report.raise_if_broken()


def test_an_empty_log_can_be_signed(tmp_path, key):
    with AuditLog.open(tmp_path / "empty.sqlite") as log:
        checkpoint = log.checkpoint(key)
        assert checkpoint.size == 0
        log.append(AuditEvent("decision"))
        assert log.verify(checkpoint, key.public_key()).ok


def test_a_checkpoint_needs_the_key_it_is_checked_with(log, key):
    with pytest.raises(InputError, match="public_key"):
        log.verify(log.checkpoint(key))


def test_a_key_is_made_once_and_for_its_owner(tmp_path):
    path = tmp_path / "signing.pem"
    key = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert [file.name for file in tmp_path.iterdir()] == ["signing.pem"]
    public = tmp_path / "signing.pub"
    public.write_text(public_pem(key))
    assert load_public_key(public).public_bytes_raw() == key.public_key().public_bytes_raw()


def test_bad_keys_are_refused(tmp_path):
    path = tmp_path / "signing.pem"
    key = load_or_create_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_key(path)
    public = tmp_path / "public.pem"
    public.write_text(public_pem(key))
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="no Ed25519"):
        load_or_create_key(public)
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"garbage")
    garbage.chmod(0o600)
    for load in (load_or_create_key, load_public_key):
        with pytest.raises(ConfigError, match="no Ed25519"):
            load(garbage)
    with pytest.raises(StoreError):
        load_public_key(tmp_path / "missing.pem")
    with pytest.raises(StoreError):
        load_or_create_key(tmp_path / "missing" / "signing.pem")


def test_json_is_one_object_of_plain_fields(log, key):
    fields = json.loads(log.checkpoint(key).json())
    assert set(fields) == {"origin", "size", "root", "time", "signature"}
