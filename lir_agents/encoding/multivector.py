"""Late-interaction checkpoints (sentence-transformers, PyLate, Stanford ColBERT) behind the encoder port.

What the checkpoint says is done by sentence-transformers' own modules: markers, query expansion, projection,
skip list. This file adds the rest of the port: character offsets for the rows that the mask kept, a pooled
vector, and queries read in the light of a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Encoding
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.fingerprint import combine, file_sha256, weights_sha256
from lir_agents.encoding.inputs import length_sorted_batches
from lir_agents.encoding.model import require_all_weights
from lir_agents.encoding.multivector_checkpoint import read_multi_vector
from lir_agents.encoding.runtime import Precision, choose_device, choose_dtype, loading, require_precision
from lir_agents.encoding.safety import refuse_unsafe
from lir_agents.encoding.tokenizer import TextTokenizer, mend
from lir_agents.encoding.vectors import unit

if TYPE_CHECKING:
    import torch

__all__ = ["MultiVectorEncoder"]

_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The model on its device, and the prompts it puts before queries and documents."""

    model: Any
    device: torch.device
    query_prompt: str
    document_prompt: str


class MultiVectorEncoder:
    """A trained late-interaction model. Weights load on first use.

    The pooled vector is the normalised mean of the token vectors that stand for text (markers and expansion
    tokens stay out), or, where `dense` is given, that encoder's pooled vector at the price of a second pass.

    Args:
        folder: The checkpoint; safetensors weights only, nothing is downloaded.
        name: What a person calls it.
        dense: Gives the pooled vectors instead.
        device: "cpu", "cuda", …; None: CUDA where there is one.
        precision: "float32" or "bfloat16"; None: bfloat16 where the device computes in it natively.

    Raises:
        InputError: The folder is not such a checkpoint, or is unsafe to load.
        ConfigError: There is no such precision.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        dense: Encoder | None = None,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> None:
        refuse_unsafe(folder)
        self._checkpoint = read_multi_vector(folder)
        self._name = name
        self._dense = dense
        self._device = device
        self._precision = require_precision(precision)
        self._loading = Lock()
        self._tokenizing = Lock()
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def dense_dim(self) -> int:
        return self._dense.dense_dim if self._dense else self._checkpoint.token_dim

    @property
    def token_dim(self) -> int:
        return self._checkpoint.token_dim

    @property
    def max_tokens(self) -> int:
        return self._checkpoint.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        return combine(
            {
                "kind": "multi-vector",
                "weights": weights_sha256(self._checkpoint.folder),
                "tokenizer": file_sha256(self._checkpoint.tokenizer),
                "settings": self._checkpoint.meaning,
                "dense": self._dense.fingerprint if self._dense else "mean of tokens",
            }
        )

    @cached_property
    def _counter(self) -> TextTokenizer:
        return TextTokenizer(self._checkpoint.tokenizer)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return self._counter.spans(text)

    def encode_documents(self, texts: Sequence[str]) -> Iterator[tuple[int, Encoding]]:
        for start in range(0, len(texts), _WINDOW):
            window = [mend(text) for text in texts[start : start + _WINDOW]]
            counts = [
                min(len(pieces.ids), self.max_tokens) for pieces in self._counter.heads(window, self.max_tokens)
            ]
            for batch in length_sorted_batches(counts):
                chosen = [window[i] for i in batch]
                dense = dict(self._dense.encode_documents(chosen)) if self._dense else {}
                for at, one in enumerate(self._documents(chosen)):
                    yield start + batch[at], replace(one, pooled=dense[at].pooled) if dense else one

    def encode_queries(self, queries: Sequence[QueryText]) -> list[Encoding]:
        encodings = [self._query(query) for query in queries]
        if self._dense is None:
            return encodings
        dense = self._dense.encode_queries(queries)
        return [replace(one, pooled=other.pooled) for one, other in zip(encodings, dense, strict=True)]

    def _documents(self, texts: list[str]) -> list[Encoding]:
        features, spans = self._preprocess(texts, self._load().document_prompt, "document")
        vectors, masks = self._forward(features, "document")
        return [_encoding(v, m, s) for v, m, s in zip(vectors, masks, spans, strict=True)]

    def _query(self, query: QueryText) -> Encoding:
        features, (spans,) = self._preprocess([mend(query.text)], self._load().query_prompt, "query")
        start = int((spans[:, 1] > spans[:, 0]).argmax())
        room = self.max_tokens - len(spans) - len(self._counter.separator)
        context = self._counter.tail(query.context, room) if start and query.context.strip() else np.empty(0, int)
        if not len(context):
            vectors, masks = self._forward(features, "query")
            return _encoding(vectors[0], masks[0], spans)
        # [CLS] [Q] context [SEP] query [SEP] [MASK] …: the query keeps its marker and expansion (ZeCo²).
        middle = [*context.tolist(), *self._counter.separator]
        vectors, masks = self._forward(_insert(features, start, middle), "query")
        own = np.delete(np.arange(vectors.shape[1]), slice(start, start + len(middle)))
        return _encoding(vectors[0, own], masks[0, own], spans)

    def _preprocess(
        self, texts: list[str], prompt: str, task: str
    ) -> tuple[dict[str, Any], list[NDArray[np.int32]]]:
        """Features for the model, and per text the character offsets of its rows, int32 [rows, 2]."""
        with self._tokenizing:  # the shared tokenizer keeps its truncation between calls
            features = self._load().model.preprocess(texts, prompt=prompt or None, task=task)
        rows = int(features["input_ids"].shape[1])
        spans = []
        for encoded in features.encodings:
            found = np.zeros((rows, 2), np.int32)
            found[: len(encoded.offsets)] = np.maximum(np.array(encoded.offsets, np.int32) - len(prompt), 0)
            spans.append(found)
        return dict(features), spans

    def _forward(self, features: dict[str, Any], task: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Token vectors, float32 [batch, rows, token_dim], and which of them score, bool [batch, rows]."""
        import torch

        loaded = self._load()
        moved = {k: v.to(loaded.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        with torch.inference_mode():
            states = loaded.model(moved, task=task)
        vectors: torch.Tensor = states["token_embeddings"]
        masks: torch.Tensor = states["attention_mask"]
        return vectors.float().cpu().numpy(), masks.bool().cpu().numpy()

    def _load(self) -> _Loaded:
        if self._loaded is None:
            with self._loading:
                self._loaded = self._loaded or self._read_weights()
        return self._loaded

    def _read_weights(self) -> _Loaded:
        folder = self._checkpoint.folder
        device = choose_device(self._device)
        dtype = choose_dtype(device, self._precision)
        with loading(folder):
            from sentence_transformers import MultiVectorEncoder as Modules

            model = Modules(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": dtype, "use_safetensors": True},
            )
            require_all_weights(model, self._checkpoint.transformer)
        model.to(dtype).eval()
        prompts: dict[str, str] = {name: prompt or "" for name, prompt in model.prompts.items()}
        fallback = prompts.get(model.default_prompt_name or "", "")
        names = ("document", "passage", "corpus")
        document = next((prompts[name] for name in names if prompts.get(name)), fallback)
        return _Loaded(model, device, prompts.get("query") or fallback, document)


def _insert(features: dict[str, Any], start: int, ids: list[int]) -> dict[str, Any]:
    """Features of one text with more tokens put in before row `start`: attended to, of segment 0, no expansion."""
    import torch

    fill: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": 1,
        "token_type_ids": 0,
        "query_expansion_positions": 0,
    }
    longer = dict(features)
    for name, value in fill.items():
        if name in features:
            old = features[name]
            new = torch.empty((1, len(ids)), dtype=old.dtype).copy_(torch.as_tensor(value).to(old.dtype))
            longer[name] = torch.cat([old[:, :start], new, old[:, start:]], dim=1)
    return longer


def _encoding(vectors: NDArray[np.float32], mask: NDArray[np.bool_], spans: NDArray[np.int32]) -> Encoding:
    """The rows that score, and the mean of those among them that stand for text."""
    if not mask.any():  # a document of punctuation only: its unmasked rows stand for it
        mask = np.ones_like(mask)
    if len(spans) != len(mask):  # the checkpoint merges token vectors: none belongs to one place in the text
        spans = np.zeros((len(mask), 2), np.int32)
    tokens, kept = unit(vectors[mask]), spans[mask]
    text = kept[:, 1] > kept[:, 0]
    return Encoding(unit(tokens[text if text.any() else slice(None)].mean(axis=0)), tokens, kept)
