"""From a transformer in torch to a model that OpenVINO reads."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from lir_agents.encoding.openvino_graphs import openvino

__all__ = ["MODEL_FILE", "convert", "masks_by_itself", "save"]

MODEL_FILE = "model.xml"


def masks_by_itself(model: Any) -> bool:
    """Whether a transformers model looks at fewer tokens than an attention mask allows: at some before, or nearby.

    Such a mask of its own is not made where it is given a whole one.
    """
    own = ("is_decoder", "sliding_window", "local_attention", "attention_window", "block_size")
    return any(getattr(model.config, name, None) for name in own)


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
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the tracer warns of every branch it takes; the probe tells whether it erred
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            return openvino().convert_model(
                (OfPlaced if placed else LastHiddenState)().eval(), example_input=example
            )
        finally:
            logging.disable(level)


def save(model: Any, folder: Path) -> None:
    """Writes `MODEL_FILE` and its weights in float32; they are mapped, not read, when it is opened.

    Weights stored in half the bytes would be widened again each time: compiling took .4 s instead of .2 s.
    """
    openvino().save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)
