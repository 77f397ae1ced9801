"""What the folder of a plain model says about itself, read from its JSON files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lir_agents.errors import InputError

__all__ = [
    "Checkpoint",
    "Pooling",
    "folder_modules",
    "max_input_tokens",
    "module_kind",
    "optional_json",
    "read_checkpoint",
    "read_json",
    "without_volatile",
]

Pooling = Literal["mean", "cls", "max", "modules"]
"""How hidden states become one vector: by one of three plain rules, or by running the checkpoint's own
sentence-transformers modules."""

_FIELD = "encoder"
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "xmod", "longformer", "data2vec-text")
"""Families whose position numbers begin after the padding id, so that two of them are never used."""
_VOLATILE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "__version__",
    "name_or_path",
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A plain transformer with a pooling rule.

    Attributes:
        folder: The checkpoint.
        transformer: The folder in it with `config.json`, weights and tokenizer.
        config: The transformer's configuration.
        pooling: How the pooled vector is made.
        max_tokens: Longest input in tokens, special tokens included.
        hidden_dim: Width of the token vectors.
        dense_dim: Width of the pooled vector.
        lower_case: Whether texts are lower-cased before the tokenizer sees them.
        query_prompt: Text put before a query.
        document_prompt: Text put before a document.
    """

    folder: Path
    transformer: Path
    config: Mapping[str, Any]
    pooling: Pooling
    max_tokens: int
    hidden_dim: int
    dense_dim: int
    lower_case: bool
    query_prompt: str
    document_prompt: str

    @property
    def meaning(self) -> dict[str, Any]:
        """The settings that change vectors, for the fingerprint."""
        return {
            "config": without_volatile(self.config),
            "pooling": self.pooling,
            "modules": _module_configs(self.folder) if self.pooling == "modules" else [],
            "max_tokens": self.max_tokens,
            "lower_case": self.lower_case,
            "prompts": [self.query_prompt, self.document_prompt],
        }


def read_json(path: Path) -> Any:
    """Parses a JSON file of a checkpoint.

    Raises:
        InputError: It is not there, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} holds no {path.name}", field=_FIELD, remedy="Give the folder of a saved model."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}", field=_FIELD) from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a plain sentence-transformers or transformers checkpoint.

    Raises:
        InputError: A file is missing, malformed or unsafe.
    """
    modules = folder_modules(folder)
    transformer = folder / str(modules[0].get("path", "")) if modules else folder
    config = read_json(transformer / "config.json")
    hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if not isinstance(hidden, int):
        raise InputError("config.json names no hidden_size", field=_FIELD, remedy="Choose a text encoder.")
    if not (transformer / "tokenizer.json").is_file():
        raise InputError(
            f"{transformer} holds no tokenizer.json",
            field=_FIELD,
            remedy="Save one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        )
    pooling = _pooling(folder, modules)
    sentence = optional_json(transformer / "sentence_bert_config.json")
    prompts = optional_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    return Checkpoint(
        folder=folder,
        transformer=transformer,
        config=config,
        pooling=pooling,
        max_tokens=max_input_tokens(config, sentence, optional_json(transformer / "tokenizer_config.json")),
        hidden_dim=hidden,
        dense_dim=_dense_dim(folder, modules, hidden) if pooling == "modules" else hidden,
        lower_case=bool(sentence.get("do_lower_case", False)),
        query_prompt=prompts.get("query") or "",
        document_prompt=next((prompts[n] for n in ("document", "passage", "corpus") if prompts.get(n)), ""),
    )


def without_volatile(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what says only who saved them, and when."""
    return {key: value for key, value in settings.items() if key not in _VOLATILE}


def optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one where there is no such file."""
    settings = read_json(path) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def folder_modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, or none where the folder is not sentence-transformers'."""
    path = folder / "modules.json"
    return list(read_json(path)) if path.is_file() else []


def module_kind(module: Mapping[str, Any]) -> str:
    """The class name of an entry of modules.json."""
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _module_configs(folder: Path) -> list[dict[str, Any]]:
    return [
        {"type": module_kind(module), "config": optional_json(folder / str(module.get("path", "")) / "config.json")}
        for module in folder_modules(folder)[1:]
    ]


def _pooling(folder: Path, modules: list[dict[str, Any]]) -> Pooling:
    """The plain rule where the modules are Transformer, Pooling and perhaps Normalize; else "modules"."""
    if not modules:
        return "mean"
    kinds = [module_kind(module) for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return "modules"
    modes = _pooling_modes(optional_json(folder / str(modules[1].get("path", "")) / "config.json"))
    match modes:
        case ["mean"] | ["cls"] | ["max"]:
            rule: Pooling = modes[0]  # type: ignore[assignment]
            return rule
        case _:
            return "modules"


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    if not config.get("include_prompt", True):
        return ["without prompt"]
    mode = config.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else list(mode)
    named = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    asked = [
        key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
    ]
    return [named.get(key, key) for key in asked] or ["mean"]


def _dense_dim(folder: Path, modules: list[dict[str, Any]], hidden: int) -> int:
    width = hidden
    for module in modules[1:]:
        config = optional_json(folder / str(module.get("path", "")) / "config.json")
        if module_kind(module) == "Pooling":
            width = hidden * max(1, len(_pooling_modes(config)))
        width = int(config.get("out_features", width))
    return width


def max_input_tokens(config: Mapping[str, Any], sentence: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """Longest input in tokens, from a checkpoint's three settings files; 512 where none says."""
    positions = config.get("max_position_embeddings")
    limits = [sentence.get("max_seq_length") or tokenizer.get("model_max_length")]
    if isinstance(positions, int) and positions > 0:
        unused = config.get("pad_token_id", 1) + 1 if config.get("model_type") in _PADDED_POSITIONS else 0
        limits.append(positions - unused)
    usable = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    return min(usable, default=512)
