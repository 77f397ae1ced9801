r"""Signed checkpoints: what is kept elsewhere, so that nobody can rewrite the log unseen.

The text form is a C2SP tlog-checkpoint inside a signed note (c2sp.org/tlog-checkpoint, c2sp.org/signed-note)::

    <origin>
    <size>
    <root, base64>
    time <UTC, ISO 8601>

    — <origin> <base64(key id, 4 bytes || Ed25519 signature over the lines above the blank one)>

with key id = SHA-256(origin || "\n" || 0x01 || public key)[:4].
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lir_agents.errors import InputError

__all__ = ["Checkpoint"]

_ED25519: Final = b"\x01"
_TEXT: Final = re.compile(
    r"(?P<origin>[^\s+]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\ntime (?P<time>[0-9T:.-]+Z)\n"
    r"\n— (?P=origin) (?P<signature>[A-Za-z0-9+/]+=*)\n?"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log at a moment, signed.

    Attributes:
        origin: The log's own name.
        size: Number of events.
        root: Root of the tree over them, 32 bytes.
        time: When it was signed, UTC, ISO 8601.
        signature: Key id (4 bytes) and Ed25519 signature (64 bytes).
    """

    origin: str
    size: int
    root: bytes
    time: str
    signature: bytes

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, *, origin: str, size: int, root: bytes, time: str) -> Checkpoint:
        """Signs a state of the log."""
        signature = key.sign(_note(origin, size, root, time))
        return cls(origin, size, root, time, _key_id(origin, key.public_key()) + signature)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads the text or the JSON form. Reading is not verifying: see `signed_by`.

        Raises:
            InputError: The text is no checkpoint.
        """
        fields = _TEXT.fullmatch(_note_of_json(text) if text.lstrip().startswith("{") else text)
        if fields is None:
            raise InputError("is no signed checkpoint", field="checkpoint", remedy="Pass what checkpoint() wrote.")
        try:
            root, signature = (base64.b64decode(fields[name], validate=True) for name in ("root", "signature"))
        except binascii.Error as error:
            raise InputError(f"holds bad base64 ({error})", field="checkpoint", remedy="Copy it whole.") from error
        return cls(fields["origin"], int(fields["size"]), root, fields["time"], signature)

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether the holder of this key signed exactly this."""
        key_id, signature = self.signature[:4], self.signature[4:]
        if key_id != _key_id(self.origin, key):
            return False
        try:
            key.verify(signature, _note(self.origin, self.size, self.root, self.time))
        except InvalidSignature:
            return False
        return True

    def text(self) -> str:
        """The signed note."""
        note = _note(self.origin, self.size, self.root, self.time).decode()
        return f"{note}\n— {self.origin} {_base64(self.signature)}\n"

    def json(self) -> str:
        """One JSON object; `root` and `signature` in base64."""
        fields = {"origin": self.origin, "size": self.size, "root": _base64(self.root), "time": self.time}
        return json.dumps({**fields, "signature": _base64(self.signature)})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _note(origin: str, size: int, root: bytes, time: str) -> bytes:
    return f"{origin}\n{size}\n{_base64(root)}\ntime {time}\n".encode()


def _note_of_json(text: str) -> str:
    try:
        fields = json.loads(text)
        origin, size, root, time, signature = (fields[k] for k in ("origin", "size", "root", "time", "signature"))
    except (ValueError, KeyError, TypeError):
        return ""  # no checkpoint, as the caller will say
    return f"{origin}\n{size}\n{root}\ntime {time}\n\n— {origin} {signature}\n"


def _key_id(origin: str, key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:4]
