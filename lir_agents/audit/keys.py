"""The key that signs checkpoints: Ed25519, PEM, readable by its owner alone.

Whoever holds it can sign a rewritten log. Keep it off the machine that holds the log where that matters, and
give auditors the public half.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lir_agents.errors import ConfigError, StoreError

__all__ = ["load_or_create_key", "load_public_key", "load_verifying_key", "public_pem"]


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Reads the signing key, or makes one with mode 0600. Two processes that start at once get the same key.

    Raises:
        ConfigError: The file is no Ed25519 key, or others than its owner may read it.
        StoreError: It can be neither read nor written.
    """
    try:
        there = path.exists()
        if not there:
            _create(path)
        data = path.read_bytes()
        _refuse_open_mode(path)
    except OSError as error:
        raise _out_of_reach(path, error) if there else _not_made(path, error) from error
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Reads the public half, as `public_pem` writes it.

    Raises:
        ConfigError: The file is no Ed25519 public key.
        StoreError: It cannot be read.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise _out_of_reach(path, error) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path)
    return key


def load_verifying_key(path: Path) -> Ed25519PublicKey:
    """Reads the public half from either file, the signing key's or its own. Makes none: see `load_or_create_key`.

    Raises:
        ConfigError: The file is no Ed25519 key, or a signing key that others than its owner may read.
        StoreError: It cannot be read.
    """
    try:
        signing = b"PRIVATE KEY" in path.read_bytes()
    except OSError as error:
        raise _out_of_reach(path, error) from error
    return load_or_create_key(path).public_key() if signing else load_public_key(path)


def public_pem(key: Ed25519PrivateKey) -> str:
    """The public half in PEM, for whoever verifies."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first: its key is the key
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _refuse_open_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"the signing key {path.name} has mode {mode:o}.",
            setting="audit key",
            remedy=f"Run: chmod 600 {path}",
        )


def _out_of_reach(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be read ({error.strerror or error})",
        store="audit",
        operation="key",
        remedy="Check that it is there and that this user may read it, or name another file.",
    )


def _not_made(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be made ({error.strerror or error})",
        store="audit",
        operation="key",
        remedy="Name a file in a directory that is there and that this user may write to.",
    )


def _no_key(path: Path) -> ConfigError:
    return ConfigError(
        f"{path.name} holds no Ed25519 key in PEM.", setting="audit key", remedy="Restore it or name another file."
    )
