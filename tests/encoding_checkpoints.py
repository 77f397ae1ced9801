"""Tiny real checkpoints, saved in every layout that the encoding room reads. Random weights, fixed seed."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WORDS = """
the a cat dog sat on mat how many days off do i get leave is of and to rent office what about
children we talked zurich naive cafe long word ##s ##ing version node server access table chair
"""
WORDS = _WORDS.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
MAX_TOKENS = 48


def save_backbone(
    folder: Path, *, seed: int = 0, max_tokens: int = MAX_TOKENS, architecture: str = "bert", **settings: Any
) -> Any:
    """Two layers of width 32, of a BERT or a kind of it, with a vocabulary of words, letters and punctuation."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    letters = [mark + letter for letter in string.ascii_lowercase + string.digits for mark in ("", "##")]
    vocabulary = list(dict.fromkeys([*SPECIAL, *WORDS, *letters, *string.punctuation]))
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.3,
        **settings,
    )
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return model


def save_plain(folder: Path, *, mode: str = "mean", dense: bool = False, **backbone: Any) -> None:
    """A sentence-transformers model: Transformer, Pooling, perhaps Dense, Normalize."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    base = folder.with_name(folder.name + "-base")
    save_backbone(base, **backbone)
    modules = [Transformer(str(base)), Pooling(32, mode)]
    modules += [Dense(32, 24)] if dense else []
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu").save(str(folder))


def save_native(folder: Path, **backbone: Any) -> None:
    """sentence-transformers' own multi-vector layout, with markers, expansion and a skip list."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from torch import nn

    base = folder.with_name(folder.name + "-base")
    save_backbone(base, **backbone)
    expansion = {"strategy": "min", "length": 12}
    modules = [
        Transformer(str(base), query_expansion=expansion, document_length=40),
        Dense(32, 16, bias=False, activation_function=nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=list(string.punctuation)),
        Normalize(module_input_name="token_embeddings"),
    ]
    prompts = {"query": "[unused0] ", "document": "[unused1] "}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(folder))


def save_pylate(folder: Path, *, model_type: str | None = None, **backbone: Any) -> None:
    """PyLate's layout: two modules, and everything else in config_sentence_transformers.json."""
    import torch
    from safetensors.torch import save_file

    save_backbone(folder, **backbone)
    dense = folder / "1_Dense"
    dense.mkdir()
    torch.manual_seed(1)
    save_file({"linear.weight": torch.randn(16, 32)}, dense / "model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    settings = {"in_features": 32, "out_features": 16, "bias": False, "activation_function": identity}
    _write(dense / "config.json", settings)
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    _write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(kinds)],
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})
    head = {
        "query_prefix": "[unused0] ",
        "document_prefix": "[unused1] ",
        "query_length": 12,
        "document_length": 40,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
    }
    _write(folder / "config_sentence_transformers.json", head | ({"model_type": model_type} if model_type else {}))


def save_stanford(folder: Path, **backbone: Any) -> None:
    """Stanford ColBERT's layout: artifact.metadata, and the projection among the weights of the transformer."""
    import torch
    from safetensors.torch import load_file, save_file

    save_backbone(folder, **backbone)
    weights = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    torch.manual_seed(1)
    save_file({**weights, "linear.weight": torch.randn(16, 32)}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    _write(folder / "config.json", config | {"architectures": ["HF_ColBERT"]})
    head = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12, "doc_maxlen": 40}
    _write(folder / "artifact.metadata", head | {"mask_punctuation": True, "attend_to_mask_tokens": False})


SAVERS: dict[str, Callable[..., None]] = {
    "plain-mean": save_plain,
    "plain-cls": lambda folder, **more: save_plain(folder, mode="cls", **more),
    "plain-max": lambda folder, **more: save_plain(folder, mode="max", **more),
    "plain-modules": lambda folder, **more: save_plain(folder, dense=True, **more),
    "transformers": save_backbone,
    "native": save_native,
    "pylate": save_pylate,
    "pylate-v3": lambda folder, **more: save_pylate(folder, model_type="ColBERT", **more),
    "stanford": save_stanford,
}
MULTI_VECTOR = ("native", "pylate", "pylate-v3", "stanford")


def _write(path: Path, settings: Any) -> None:
    path.write_text(json.dumps(settings), encoding="utf-8")
