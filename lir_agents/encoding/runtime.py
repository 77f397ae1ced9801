"""Where and how precisely a model runs, and loading one without noise or network.

Precision. Weights are cast to bfloat16 where the processor multiplies in it natively: twice to three times
the speed. The fingerprint leaves precision out on purpose: for all-MiniLM-L6-v2 the cosine between the same
vector in float32 and in bfloat16 is above .9999 for pooled vectors and above .999 (median .9999) for token
vectors, of the order of the error of the int8 store that they end up in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

from lir_agents.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Precision", "choose_device", "choose_dtype", "loading", "refuse_missing", "require_precision"]

Precision = Literal["float32", "bfloat16"]

_QUIET = Lock()
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


def choose_device(device: str | None) -> torch.device:
    """The device asked for, or a CUDA device where there is one, or the processor.

    Raises:
        ConfigError: Torch does not know the device, or this machine does not have it.
    """
    import torch

    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} is not available: {error}",
            setting="device",
            remedy='Use "cpu", "cuda", or leave it out.',
        ) from error
    return chosen


def choose_dtype(device: torch.device, precision: Precision | None) -> torch.dtype:
    """The precision asked for, or bfloat16 where the device computes in it natively, or float32."""
    import torch

    native = _native_bfloat16(device) if precision is None else precision == "bfloat16"
    return torch.bfloat16 if native else torch.float32


def require_precision(precision: Precision | None) -> Precision | None:
    """Passes a known precision on.

    Raises:
        ConfigError: It is none.
    """
    if precision is not None and precision not in get_args(Precision):
        raise ConfigError(
            f"precision is {precision!r}", setting="precision", remedy='Use "float32", "bfloat16" or leave it out.'
        )
    return precision


def _native_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # Without the instructions, bfloat16 on a processor is emulated, and slower than float32.
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is not None:
        capabilities = probe()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """What reading a checkpoint needs around it: silence, and one kind of error for the many there can be.

    Raises:
        InputError: The libraries below could not make a model of the files.
    """
    from safetensors import SafetensorError

    try:
        with _quiet():
            yield
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise InputError(
            f"{folder} cannot be loaded: {error}",
            field="encoder",
            remedy="Give a folder that sentence-transformers or transformers saved.",
        ) from error


def refuse_missing(names: Iterable[str]) -> None:
    """Refuses a model of which a part would be random, because the checkpoint has no weights for it.

    Args:
        names: The weights that were not found. A pooler that no late-interaction model uses may be among them.

    Raises:
        ValueError: To be told as an `InputError` by :func:`loading`.
    """
    missing = sorted(name for name in names if "pooler" not in name)
    if missing:
        raise ValueError(f"it has no weights for {', '.join(missing[:3])}" + (" and others" if missing[3:] else ""))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the loading bars and warnings of transformers and sentence-transformers for a while.

    Their settings are process-wide, so one load at a time holds them, and puts them back.
    """
    from transformers.utils import logging as transformers_logging

    settings: Any = transformers_logging
    modules = logging.getLogger("sentence_transformers")
    with _QUIET:
        before = (settings.get_verbosity(), modules.level, settings.is_progress_bar_enabled())
        settings.set_verbosity_error()
        modules.setLevel(logging.ERROR)
        settings.disable_progress_bar()
        try:
            yield
        finally:
            settings.set_verbosity(before[0])
            modules.setLevel(before[1])
            if before[2]:
                settings.enable_progress_bar()
