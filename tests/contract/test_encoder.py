"""What every encoder promises, whatever model is behind it."""

from __future__ import annotations

import numpy as np
import pytest

from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.open import open_encoder

TEXTS = ["The cat sat on the mat.", "", "Zürich 東京 🙂 naïve café", "!!! ... ???", "word " * 3000, "a"]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return open_encoder(None)


def test_every_index_comes_exactly_once(encoder: Encoder) -> None:
    seen = [index for index, _ in encoder.encode_documents(TEXTS)]
    assert sorted(seen) == list(range(len(TEXTS)))


def test_shapes_dtypes_and_norms(encoder: Encoder) -> None:
    for _, encoding in encoder.encode_documents(TEXTS):
        count = len(encoding.tokens)
        assert 1 <= count <= encoder.max_tokens
        assert encoding.pooled.shape == (encoder.dense_dim,)
        assert encoding.tokens.shape == (count, encoder.token_dim)
        assert encoding.spans.shape == (count, 2)
        assert (encoding.pooled.dtype, encoding.tokens.dtype, encoding.spans.dtype) == ("f4", "f4", "i4")
        assert np.linalg.norm(encoding.pooled) == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(encoding.tokens, axis=1) == pytest.approx(1, abs=1e-4)


def test_a_context_changes_vectors_and_adds_none(encoder: Encoder) -> None:
    plain, contextual = encoder.encode_queries([QueryText("how much?"), QueryText("how much?", context="Rent.")])
    assert plain.spans.tolist() == contextual.spans.tolist()
    assert not np.allclose(plain.tokens, contextual.tokens, atol=1e-3)
