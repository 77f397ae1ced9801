"""A plain transformer as a late-interaction encoder: one forward pass, two results.

The token matrix is the last hidden states, L2-normalised row by row; the pooled vector is made from the same
hidden states by the checkpoint's own rule. Both are computed in float32 from hidden states of either precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding
from lir_agents.config import EncoderSettings
from lir_agents.encoding.backend import Chosen, choose_forward
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.checkpoint import read_checkpoint
from lir_agents.encoding.fingerprint import combine, file_sha256, weights_sha256
from lir_agents.encoding.inputs import Input, InputBuilder, length_sorted_batches
from lir_agents.encoding.model import Forward
from lir_agents.encoding.probe import Probe
from lir_agents.encoding.runtime import Precision, require_precision
from lir_agents.encoding.safety import refuse_unsafe
from lir_agents.encoding.tokenizer import TextTokenizer
from lir_agents.encoding.vectors import unit

__all__ = ["TransformerEncoder"]

_WINDOW = 1024
"""Documents tokenised and sorted together: enough to fill batches of one length, few enough for flat memory."""

_POOLS_ROW_BY_ROW = ("mean", "max")


class TransformerEncoder:
    """Any sentence-transformers or transformers checkpoint of one text encoder. Weights load on first use.

    Args:
        folder: The checkpoint; safetensors weights only, nothing is downloaded.
        name: What a person calls it.
        device: "cpu", "cuda", …; None: CUDA where there is one.
        precision: "float32" or "bfloat16"; None: bfloat16 where the device computes in it natively.
        keep_special: Whether the vectors of special tokens ([CLS], [SEP]) are part of the token matrix.
        drop_punctuation: Whether document tokens of punctuation only leave the token matrix.
        settings: Which library runs it, and on how many threads.

    Raises:
        InputError: The folder is not such a checkpoint, or is unsafe to load.
        ConfigError: There is no such precision.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        device: str | None = None,
        precision: Precision | None = None,
        keep_special: bool = False,
        drop_punctuation: bool = False,
        settings: EncoderSettings | None = None,
    ) -> None:
        refuse_unsafe(folder)
        self._checkpoint = read_checkpoint(folder)
        self._name = name
        self._device = device
        self._precision = require_precision(precision)
        self._rows = {"keep_special": keep_special, "drop_punctuation": drop_punctuation}
        self._settings = settings or EncoderSettings()
        self._lock = Lock()
        self._forward: Forward | None = None
        self._chosen: Chosen | None = None
        self._builder: InputBuilder | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def dense_dim(self) -> int:
        return self._checkpoint.dense_dim

    @property
    def token_dim(self) -> int:
        return self._checkpoint.hidden_dim

    @property
    def max_tokens(self) -> int:
        return self._checkpoint.max_tokens

    @property
    def backend(self) -> Chosen | None:
        """What runs the forward pass, and why; None before the first text."""
        return self._chosen

    @property
    def steady(self) -> bool:
        """Whether a query's vectors are the same, to the bit, whatever is encoded beside it. Reads the model."""
        self._run()
        return self._chosen is not None and self._chosen.steady

    @cached_property
    def fingerprint(self) -> str:
        return combine(
            {
                "kind": "transformer",
                "weights": weights_sha256(self._checkpoint.folder),
                "tokenizer": file_sha256(self._checkpoint.transformer / "tokenizer.json"),
                "settings": self._checkpoint.meaning,
                "rows": self._rows,
            }
        )

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self._inputs().tokenizer.spans(text)

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for start in range(0, len(texts), _WINDOW):
            inputs = self._inputs().documents(texts[start : start + _WINDOW])
            for batch in length_sorted_batches([len(one.ids) for one in inputs]):
                for i, encoding in zip(batch, self._encode([inputs[i] for i in batch]), strict=True):
                    yield start + i, encoding

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        builder = self._inputs()
        encoded = self._encode_in_order(builder.queries(queries))
        if self._checkpoint.pooling in _POOLS_ROW_BY_ROW:
            return encoded
        # Other rules pool the whole input, context included: there the query's own pass gives the pooled vector.
        contextual = [i for i, query in enumerate(queries) if query.context]
        alone = self._encode_in_order(builder.queries([QueryText(queries[i].text) for i in contextual]))
        for i, plain in zip(contextual, alone, strict=True):
            encoded[i] = replace(encoded[i], pooled=plain.pooled)
        return encoded

    def _encode_in_order(self, inputs: Sequence[Input]) -> list[Encoding]:
        encoded: dict[int, Encoding] = {}
        for batch in length_sorted_batches([len(one.ids) for one in inputs]):
            encoded.update(zip(batch, self._encode([inputs[i] for i in batch]), strict=True))
        return [encoded[i] for i in range(len(inputs))]

    def _encode(self, batch: Sequence[Input]) -> list[Encoding]:
        states = self._run()([one.ids for one in batch])
        rows = []
        for i, one in enumerate(batch):
            hidden = states.hidden[i, : len(one.ids)]
            pooled = self._pool(hidden, one.pool) if states.pooled is None else states.pooled[i]
            rows.append(Encoding(unit(pooled), unit(hidden[one.keep]), one.spans[one.keep]))
        return rows

    def _pool(self, hidden: NDArray[np.float32], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        match self._checkpoint.pooling:
            case "cls":
                return np.asarray(hidden[0], np.float32)
            case "max":
                return np.asarray(hidden[rows].max(axis=0), np.float32)
            case _:
                return np.asarray(hidden[rows].mean(axis=0), np.float32)

    def _inputs(self) -> InputBuilder:
        if self._builder is None:
            with self._lock:
                self._builder = self._builder or self._make_builder()
        return self._builder

    def _make_builder(self) -> InputBuilder:
        spec = self._checkpoint
        return InputBuilder(
            TextTokenizer(spec.transformer / "tokenizer.json", lower_case=spec.lower_case),
            max_tokens=spec.max_tokens,
            query_prompt=spec.query_prompt,
            document_prompt=spec.document_prompt,
            **self._rows,
        )

    def _run(self) -> Forward:
        if self._forward is None:
            inputs = self._inputs()
            with self._lock:
                if self._forward is None:
                    self._forward, self._chosen = choose_forward(
                        self._checkpoint,
                        lambda: Probe.of(inputs),
                        device=self._device,
                        precision=self._precision,
                        backend=self._settings.backend,
                        threads=self._settings.threads,
                    )
        return self._forward
