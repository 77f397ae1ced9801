"""Models by hub name: from the local cache where they are there, fetched once where they are not."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from lir_agents.errors import InputError

__all__ = ["hub_folder", "is_hub_name"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.safetensors", "*.metadata", "*.txt", "*.model"]
"""Weights that cannot run code, settings and vocabularies; no pickle and no Python file is ever fetched."""
_UNWANTED = ["onnx/*", "openvino/*"]


def is_hub_name(text: str) -> bool:
    """Whether a text has the shape `organisation/model`."""
    return _NAME.fullmatch(text) is not None


def hub_folder(name: str) -> Path:
    """The folder of a hub model. The network is asked only for a model that is not in the local cache.

    Raises:
        InputError: There is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with suppress(LocalEntryNotFoundError):  # not in the cache: the hub is asked below
            cached = Path(snapshot_download(name, local_files_only=True))
            if any(cached.rglob("*.safetensors")):
                return cached
    except HFValidationError as error:
        raise InputError(f"{name!r} is no hub name: {error}", field="encoder") from error
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name!r} is neither a folder here nor a model that could be fetched: {reason}",
            field="encoder",
            remedy="Check the name, give the folder of a saved model, or leave the encoder out.",
        ) from error
