"""What is refused before it is opened: a checkpoint is somebody else's file.

Only safetensors and JSON are ever read. Pickled weights and model code that a checkpoint brings along could run
anything.
"""

from __future__ import annotations

from pathlib import Path

from lir_agents.encoding.checkpoint import folder_modules, read_json
from lir_agents.errors import InputError

__all__ = ["refuse_unsafe"]

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_KNOWN_MODULES = ("sentence_transformers.", "pylate.models.Dense.Dense")


def refuse_unsafe(folder: Path) -> None:
    """Refuses checkpoints that can only be loaded by unpickling or by running code they bring along.

    Raises:
        InputError: Saying which file is the reason.
    """
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise InputError(
            f"{folder} holds no model: neither config.json nor modules.json is there",
            field="encoder",
            remedy="Give the folder of a saved model.",
        )
    _refuse_code(folder)
    _refuse_pickles(folder)


def _refuse_code(folder: Path) -> None:
    for path in sorted(folder.rglob("*config.json")):
        settings = read_json(path)
        if isinstance(settings, dict) and settings.get("auto_map"):
            raise InputError(
                f"{path.name} of this model asks to run code that comes with it (auto_map)",
                field="encoder",
                remedy="Choose a model that transformers supports by itself.",
            )
    for module in folder_modules(folder):
        if not str(module.get("type", "")).startswith(_KNOWN_MODULES):
            raise InputError(
                f"modules.json names {module.get('type')!r}, which is not part of sentence-transformers",
                field="encoder",
                remedy="Choose a model made of sentence-transformers' own modules.",
            )


def _refuse_pickles(folder: Path) -> None:
    for holder in sorted({path.parent for pattern in _PICKLES for path in folder.rglob(pattern)}):
        if not any(holder.glob("*.safetensors")):
            raise InputError(
                f"{holder} holds pickled weights only, and unpickling can run any code",
                field="encoder",
                remedy="Save the model with safetensors: model.save_pretrained(folder, safe_serialization=True).",
            )
    if not any(folder.rglob("*.safetensors")):
        raise InputError(
            f"{folder} holds no safetensors weights", field="encoder", remedy="Give the folder of a saved model."
        )
