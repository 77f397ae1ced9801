"""One's own ColBERT: any multi-vector checkpoint that sentence-transformers, PyLate or Stanford ColBERT saved.

Run it:             python examples/own_colbert_checkpoint.py
With a checkpoint:  python examples/own_colbert_checkpoint.py path/to/checkpoint
"""

from __future__ import annotations

import string
import sys
import tempfile
from pathlib import Path

from _handbook import without_acl

from lir_agents import LateInteractionIndex
from lir_agents.encoding.bundled import bundled_folder
from lir_agents.encoding.open import open_encoder


def make_checkpoint(folder: Path) -> Path:
    """Stands in for a trained one: the bundled backbone with a projection to 96 dimensions and ColBERT's mask."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    projection = Dense(
        384, 96, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"
    )
    torch.nn.init.orthogonal_(projection.linear.weight)  # keeps angles about as they are, without training
    modules = [
        Transformer(str(bundled_folder())),
        projection,
        MultiVectorMask(skiplist_words=list(string.punctuation)),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder))
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else make_checkpoint(Path(folder) / "colbert")
        # The pooled vectors of the first stage come from the bundled model; without `dense` they would be the mean
        # of the checkpoint's own token vectors.
        encoder = open_encoder(checkpoint, dense="all-MiniLM-L6-v2")
        with LateInteractionIndex.open(Path(folder) / "handbook.lir", encoder=encoder) as index:
            index.add(without_acl())
            result = index.search("how long may parents stay at home?", k=2)
            for hit in result:
                parts = ", ".join(f"{name} {value:+.2f}" for name, value in hit.breakdown.items())
                print(f"{hit.rank}. {hit.passage_id}  {hit.score:+.2f}  ({parts})")
            print(result[0].explain())
        print(f"token vectors of {encoder.token_dim} dimensions, fingerprint {encoder.fingerprint[:12]}")


if __name__ == "__main__":
    main()
