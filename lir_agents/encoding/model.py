"""The forward pass: token ids in, float32 hidden states out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.checkpoint import Checkpoint
from lir_agents.encoding.runtime import Precision, choose_device, choose_dtype, loading, refuse_missing

if TYPE_CHECKING:
    import torch

__all__ = ["Forward", "States", "load_forward", "load_plain", "pad", "pad_id", "require_all_weights"]


@dataclass(frozen=True, slots=True)
class States:
    """What a forward pass gives for a batch.

    Attributes:
        hidden: float32 [batch, longest, hidden_dim], last hidden states; rows past an input's end are noise.
        pooled: float32 [batch, dense_dim] where the checkpoint's own modules pooled, not normalised; or None.
    """

    hidden: NDArray[np.float32]
    pooled: NDArray[np.float32] | None = None


class Forward(Protocol):
    """Runs a batch of token ids; safe to call from several threads."""

    def __call__(self, rows: Sequence[NDArray[np.int64]]) -> States:
        """Args: rows: int64 [t_i] each, special tokens included."""


def pad(rows: Sequence[NDArray[np.int64]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows side by side, padded on the right, and the mask that is 1 on their own tokens; both [batch, longest]."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def load_forward(checkpoint: Checkpoint, *, device: str | None, precision: Precision | None) -> Forward:
    """Loads the weights, from local files only and without code from the checkpoint.

    Raises:
        InputError: transformers cannot make a model of the files.
        ConfigError: The device or precision is not to be had.
    """
    target = choose_device(device)
    dtype = choose_dtype(target, precision)
    with loading(checkpoint.folder):
        if checkpoint.pooling == "modules":
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(
                str(checkpoint.folder),
                device=str(target),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
            require_all_weights(model, checkpoint.transformer)
            model.to(dtype)
        else:
            model = _read_plain(checkpoint, dtype)
            model.to(target)
    return _torch_forward(checkpoint, model.eval(), target)


def load_plain(checkpoint: Checkpoint) -> tuple[Any, Callable[[torch.dtype], Forward]]:
    """Loads a checkpoint without modules on the processor, in float32, to be converted and compared with.

    Returns:
        The transformer, and what makes a `Forward` of it; which casts it, and never back.

    Raises:
        InputError: transformers cannot make a model of the files.
    """
    import torch

    with loading(checkpoint.folder):
        model = _read_plain(checkpoint, torch.float32).eval()
    return model, lambda dtype: _torch_forward(checkpoint, model.to(dtype), torch.device("cpu"))


def pad_id(checkpoint: Checkpoint) -> int:
    """The token id that padding has."""
    return int(checkpoint.config.get("pad_token_id") or 0)


def _read_plain(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        str(checkpoint.transformer),
        output_loading_info=True,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    refuse_missing(report["missing_keys"])
    return model


_CELLS_ALONE = 256  # a question with its context; a batch of passages is worth every thread


def _torch_forward(checkpoint: Checkpoint, model: Any, target: torch.device) -> Forward:
    import torch

    from lir_agents.threads import alone

    run = _run_modules if checkpoint.pooling == "modules" else _run_plain
    padding = pad_id(checkpoint)

    def forward(rows: Sequence[NDArray[np.int64]]) -> States:
        ids, mask = pad(rows, padding)
        with torch.inference_mode(), alone(ids.size <= _CELLS_ALONE):
            return run(model, torch.from_numpy(ids).to(target), torch.from_numpy(mask).to(target))

    return forward


def require_all_weights(model: Any, transformer: Path) -> None:
    """Checks that no part of the transformer inside a sentence-transformers model is random.

    sentence-transformers keeps transformers' report to itself; so the weights are read once more for it.

    Raises:
        ValueError: Naming the weights that the checkpoint lacks.
    """
    _, report = type(model[0].auto_model).from_pretrained(
        str(transformer),
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    refuse_missing(report["missing_keys"])


def _run_plain(model: Any, ids: Any, mask: Any) -> States:
    hidden: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return States(hidden.float().cpu().numpy())


def _run_modules(model: Any, ids: Any, mask: Any) -> States:
    features = model({"input_ids": ids, "attention_mask": mask})
    return States(
        features["token_embeddings"].float().cpu().numpy(), features["sentence_embedding"].float().cpu().numpy()
    )
