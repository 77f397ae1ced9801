"""From a transformer in torch to a model that OpenVINO reads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lir_agents.encoding.openvino_graphs import openvino

__all__ = ["MODEL_FILE", "convert", "first_position", "save"]

MODEL_FILE = "model.xml"


def first_position(model: Any) -> int | None:
    """Where a transformers model has a text's positions begin, as `Model` of OpenVINO's graphs tells them.

    Returns:
        0, or a place behind that of padding in RoBERTa and those after it. None: it is not to be told, because it
        looks at fewer tokens than a mask allows, at those before or nearby: a mask of its own is not made where it
        is given a whole one.
    """
    own = ("is_decoder", "sliding_window", "local_attention", "attention_window", "block_size")
    if any(getattr(model.config, name, None) for name in own):
        return None
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def convert(model: Any, *, placed: bool) -> Any:
    """Traces a transformer into an OpenVINO model with inputs of any shape.

    The example holds a padded row, so that the attention mask is part of what is traced. optimum-intel is not
    used: it holds transformers back behind what sentence-transformers needs.

    Args:
        model: A transformers model in float32; left as it was.
        placed: Whether its inputs are `input_ids` and `position_ids`, int64 [rows, length], and `attention_mask`,
            bool [rows, 1, length, length]: whatever tells texts apart is told from outside, so that one row may
            hold several. Otherwise `input_ids` and `attention_mask`, int64 [rows, length].

    Raises:
        Exception: Whatever the tracer or the converter raises on an architecture they do not know, or that takes no
            positions.
    """
    import torch

    class LastHiddenState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return states

    class OfPlaced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> torch.Tensor:
            states: torch.Tensor = self.model(
                input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask
            ).last_hidden_state
            return states

    ids = torch.ones((2, 12), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    example = {"input_ids": ids, "attention_mask": mask}
    if placed:
        whole = mask.bool()[:, None, None, :].repeat(1, 1, 12, 1)
        example |= {"position_ids": torch.arange(12).repeat(2, 1), "attention_mask": whole}
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        return openvino().convert_model((OfPlaced if placed else LastHiddenState)().eval(), example_input=example)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tracer warns of every branch it takes; the probe tells whether it erred. And the converter sets the root
    logger's level, filters and handlers, and leaves them so where it raises."""
    root, level = logging.getLogger(), logging.root.manager.disable
    before = root.level, root.filters[:], root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before[0])
        root.filters[:], root.handlers[:] = before[1:]
        logging.disable(level)


def save(model: Any, folder: Path) -> None:
    """Writes `MODEL_FILE` and its weights in float32; they are mapped, not read, when it is opened.

    Weights stored in half the bytes would be widened again each time: compiling took .4 s instead of .2 s.
    """
    openvino().save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)
