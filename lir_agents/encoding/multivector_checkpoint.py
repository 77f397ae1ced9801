"""Telling late-interaction checkpoints from plain ones, by their JSON files alone.

Three layouts are known: sentence-transformers' own (`model_type: MultiVectorEncoder`), PyLate's
(`model_type: ColBERT`, or markers `query_prefix` / `document_prefix`) and Stanford ColBERT's
(`architectures: [HF_ColBERT]`, `artifact.metadata`, the projection inside the weights as `linear.weight`).

Whoever hands anything else to `MultiVectorEncoder` gets a *random* projection and no warning: such folders must
be recognised here and go the way of plain models, or be refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lir_agents.encoding.checkpoint import (
    folder_modules,
    max_input_tokens,
    module_kind,
    optional_json,
    read_json,
    without_volatile,
)
from lir_agents.errors import InputError

__all__ = ["MultiVectorCheckpoint", "is_multi_vector", "read_multi_vector"]

_STANFORD = "HF_ColBERT"
_STANFORD_WEIGHT = "linear.weight"
_SETTINGS = ("config.json", "tokenizer_config.json", "artifact.metadata")


@dataclass(frozen=True, slots=True)
class MultiVectorCheckpoint:
    """A late-interaction checkpoint.

    Attributes:
        folder: The checkpoint.
        transformer: The folder in it with `config.json` and weights.
        tokenizer: Its `tokenizer.json`.
        token_dim: Width of a token vector after the projection.
        max_tokens: Longest document in tokens, special tokens and marker included.
    """

    folder: Path
    transformer: Path
    tokenizer: Path
    token_dim: int
    max_tokens: int

    @property
    def meaning(self) -> dict[str, Any]:
        """Every setting file of the folder, for the fingerprint: markers, expansion, masks, projections."""
        files = sorted({path for name in (*_SETTINGS, "*_config.json") for path in self.folder.rglob(name)})
        files += sorted(self.folder.glob("config_*.json"))
        settings = {path.relative_to(self.folder).as_posix(): without_volatile(read_json(path)) for path in files}
        return {"files": settings, "modules": [module_kind(module) for module in folder_modules(self.folder)]}


def is_multi_vector(folder: Path) -> bool:
    """Whether a folder says of itself that it gives one vector per token.

    Raises:
        InputError: One of its settings is not JSON.
    """
    settings = optional_json(folder / "config_sentence_transformers.json")
    kinds = [module_kind(module) for module in folder_modules(folder)]
    return (
        settings.get("model_type") in ("MultiVectorEncoder", "ColBERT")
        or "query_prefix" in settings
        or "document_prefix" in settings
        or "MultiVectorMask" in kinds
        or _is_stanford(folder)
    )


def read_multi_vector(folder: Path) -> MultiVectorCheckpoint:
    """Reads what is needed to open a late-interaction checkpoint before its weights are.

    Raises:
        InputError: It has no projection of its own, or lacks its tokenizer.
    """
    modules = folder_modules(folder)
    transformer = folder / str(modules[0].get("path", "")) if modules else folder
    tokenizer = next((p for p in (transformer / "tokenizer.json", folder / "tokenizer.json") if p.is_file()), None)
    if tokenizer is None:
        raise InputError(
            f"{folder} holds no tokenizer.json",
            field="encoder",
            remedy="Save one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        )
    config = read_json(transformer / "config.json")
    token_dim = _module_dim(folder, modules, config) if modules else _stanford_dim(folder)
    return MultiVectorCheckpoint(
        folder, transformer, tokenizer, token_dim, _document_tokens(folder, transformer, config)
    )


def _is_stanford(folder: Path) -> bool:
    return _STANFORD in (optional_json(folder / "config.json").get("architectures") or [])


def _module_dim(folder: Path, modules: list[dict[str, Any]], config: dict[str, Any]) -> int:
    width = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    kinds = [module_kind(module) for module in modules]
    if kinds[0] != "Transformer" or not isinstance(width, int):
        raise InputError(
            f"a multi-vector model that begins with {kinds[0]} is not supported",
            field="encoder",
            remedy="Choose a model that reads text with one transformer.",
        )
    native = optional_json(folder / "config_sentence_transformers.json").get("model_type") == "MultiVectorEncoder"
    if "Dense" not in kinds and not native:
        raise _no_projection(folder)
    for module in modules[1:]:
        if module_kind(module) == "Dense":
            width = int(read_json(folder / str(module.get("path", "")) / "config.json")["out_features"])
    return width


def _stanford_dim(folder: Path) -> int:
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")) if _is_stanford(folder) else []:
        try:
            with safe_open(path, framework="numpy") as weights:
                if _STANFORD_WEIGHT in set(weights.keys()):
                    return int(weights.get_slice(_STANFORD_WEIGHT).get_shape()[0])
        except SafetensorError as error:
            raise InputError(f"{path} is damaged: {error}", field="encoder") from error
    raise _no_projection(folder)


def _no_projection(folder: Path) -> InputError:
    return InputError(
        f"{folder} calls itself a late-interaction model and holds no projection",
        field="encoder",
        remedy="A random one would be put in its place. Save the model again with its Dense module.",
    )


def _document_tokens(folder: Path, transformer: Path, config: dict[str, Any]) -> int:
    """The document length that sentence-transformers will cut at, by the layout's own name for it."""
    sentence = optional_json(transformer / "sentence_bert_config.json")
    limit = max_input_tokens(config, sentence, optional_json(transformer / "tokenizer_config.json"))
    asked = (
        sentence.get("document_length")
        or optional_json(folder / "config_sentence_transformers.json").get("document_length")
        or optional_json(folder / "artifact.metadata").get("doc_maxlen")
    )
    return min(int(asked), limit) if asked else limit
