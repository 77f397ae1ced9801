"""What every encoder promises, whatever model is behind it.

Each layout is a tiny real checkpoint; the bundled model is one more. The oracle is sentence-transformers itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lir_agents.arrays import Encoding
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.encoding.open import open_encoder
from tests.encoding_checkpoints import MULTI_VECTOR, SAVERS

SENTENCE = "The cat, the dog: sat on mats!"
TEXTS = [SENTENCE, "", "Zürich 東京 🙂 naïve café", "!!! ... ???", "cat " * 3000, " \n\t ", "a", "\ud800 broken"]
QUESTION = QueryText("how many days off do i get?")
BUNDLED = "bundled"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {name: root / name for name in SAVERS}
    for name, folder in folders.items():
        SAVERS[name](folder)
    return folders


@pytest.fixture(scope="session")
def encoders(checkpoints: dict[str, Path]) -> dict[str, Encoder]:
    tiny = {name: open_encoder(folder, device="cpu", precision="float32") for name, folder in checkpoints.items()}
    return {BUNDLED: open_encoder(None), **tiny}


@pytest.fixture(params=[BUNDLED, *SAVERS])
def encoder(request: pytest.FixtureRequest, encoders: dict[str, Encoder]) -> Encoder:
    return encoders[request.param]


def documents(encoder: Encoder, texts: list[str]) -> list[Encoding]:
    found = dict(encoder.encode_documents(texts))
    return [found[i] for i in range(len(texts))]


def close(one: Encoding, other: Encoding, *, loss: float = 2e-3) -> bool:
    """Equal spans, and vectors whose cosine is 1 within the rounding of bfloat16."""
    same = one.spans.tolist() == other.spans.tolist()
    return same and bool(
        one.pooled @ other.pooled > 1 - loss and ((one.tokens * other.tokens).sum(axis=1) > 1 - loss).all()
    )


def test_it_is_an_encoder(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    assert open_encoder(encoder) is encoder
    assert len(encoder.fingerprint) == 64
    assert encoder.name


def test_every_index_comes_exactly_once(encoder: Encoder) -> None:
    assert sorted(index for index, _ in encoder.encode_documents(TEXTS)) == list(range(len(TEXTS)))
    assert list(encoder.encode_documents([])) == []
    assert encoder.encode_queries([]) == []


def test_shapes_dtypes_and_norms(encoder: Encoder) -> None:
    queries = encoder.encode_queries([QueryText(text) for text in TEXTS])
    for encoding in [*documents(encoder, TEXTS), *queries]:
        count = len(encoding.tokens)
        assert count >= 1
        assert encoding.pooled.shape == (encoder.dense_dim,)
        assert encoding.tokens.shape == (count, encoder.token_dim)
        assert encoding.spans.shape == (count, 2)
        assert (encoding.pooled.dtype, encoding.tokens.dtype, encoding.spans.dtype) == ("f4", "f4", "i4")
        assert np.linalg.norm(encoding.pooled) == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(encoding.tokens, axis=1) == pytest.approx(np.ones(count), abs=1e-4)


def test_documents_stay_within_the_models_length(encoder: Encoder) -> None:
    (long,) = documents(encoder, ["cat " * 3000])
    assert encoder.max_tokens - 4 <= len(long.tokens) <= encoder.max_tokens


def test_spans_reproduce_the_words(encoder: Encoder) -> None:
    (encoding,) = documents(encoder, [SENTENCE])
    spans = [(a, b) for a, b in encoding.spans.tolist() if b > a]
    assert spans == sorted(spans)
    letters = "".join(SENTENCE[a:b] for a, b in spans if SENTENCE[a:b].isalpha())
    assert letters == "Thecatthedogsatonmats"
    assert all(0 <= a <= b <= len(SENTENCE) for a, b in encoding.spans.tolist())


def test_token_spans_cover_every_word_of_any_text(encoder: Encoder) -> None:
    for text in ["", SENTENCE, "Zürich 東京 🙂", "cat dog " * 9000]:
        spans = encoder.token_spans(text)
        covered = {i for a, b in spans for i in range(a, b)}
        assert covered == {i for i, letter in enumerate(text) if not letter.isspace()}


def test_company_does_not_change_a_text(encoder: Encoder) -> None:
    together = documents(encoder, TEXTS)
    for text, encoding in zip(TEXTS, together, strict=True):
        assert close(documents(encoder, [text])[0], encoding)
    queries = [QueryText(text) for text in TEXTS]
    for query, encoding in zip(queries, encoder.encode_queries(queries), strict=True):
        assert close(encoder.encode_queries([query])[0], encoding)


@pytest.mark.parametrize("kind", ["plain-mean", "plain-modules", "native", "stanford"])
def test_threads_do_not_disturb_each_other(kind: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[kind]
    texts = [f"{word} " * size for word in ("cat", "dog") for size in (1, 7, 30)]
    expected = [(documents(encoder, [text])[0], encoder.encode_queries([QueryText(text)])[0]) for text in texts]

    def encode(text: str) -> tuple[Encoding, Encoding, int]:
        spans = len(encoder.token_spans(text))
        return documents(encoder, [text])[0], encoder.encode_queries([QueryText(text)])[0], spans

    with ThreadPoolExecutor(4) as pool:
        for text, (document, query), found in zip(texts, expected, pool.map(encode, texts), strict=True):
            assert close(found[0], document)
            assert close(found[1], query)
            assert found[2] == len(text.split())


def test_a_context_changes_vectors_and_adds_none(encoder: Encoder) -> None:
    plain, light, heavy = encoder.encode_queries(
        [QUESTION, QueryText(QUESTION.text, context="what about rent?"), QueryText(QUESTION.text, "cat " * 9000)]
    )
    for contextual in (light, heavy):
        assert contextual.spans.tolist() == plain.spans.tolist()
        assert not np.allclose(contextual.tokens, plain.tokens, atol=1e-3)


def test_an_empty_context_is_no_context(encoder: Encoder) -> None:
    plain, blank = encoder.encode_queries([QUESTION, QueryText(QUESTION.text, context=" \n ")])
    assert close(plain, blank)


def test_a_context_loses_its_oldest_part_first(encoder: Encoder) -> None:
    recent = "office rent " * encoder.max_tokens
    texts = [QueryText(QUESTION.text, context=f"{start} {recent}") for start in ("cat", "dog table")]
    texts.append(QueryText(QUESTION.text, context=f"{recent} dog"))
    one, other, newer = encoder.encode_queries(texts)
    assert close(one, other, loss=1e-6)
    assert not np.allclose(one.tokens, newer.tokens, atol=1e-3)


def test_a_query_that_fills_the_model_crowds_out_its_context(encoder: Encoder) -> None:
    text = "how many days " * 4000
    plain, contextual = encoder.encode_queries([QueryText(text), QueryText(text, context="what about rent?")])
    assert contextual.spans.tolist() == plain.spans.tolist()
    assert np.isfinite(contextual.tokens).all()


@pytest.mark.parametrize("kind", [kind for kind in SAVERS if kind not in MULTI_VECTOR])
def test_pooled_vectors_are_sentence_transformers_own(
    kind: str, encoders: dict[str, Encoder], checkpoints: dict[str, Path]
) -> None:
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(checkpoints[kind]), device="cpu", local_files_only=True)
    texts = [SENTENCE, "cat " * 100, "a"]
    expected = oracle.encode(texts, normalize_embeddings=True)
    found = np.array([encoding.pooled for encoding in documents(encoders[kind], texts)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", MULTI_VECTOR)
def test_token_vectors_are_sentence_transformers_own(
    kind: str, encoders: dict[str, Encoder], checkpoints: dict[str, Path]
) -> None:
    from sentence_transformers import MultiVectorEncoder

    oracle = MultiVectorEncoder(str(checkpoints[kind]), device="cpu", local_files_only=True)
    texts = [SENTENCE, "cat " * 100, "a"]
    for encoding, expected in zip(
        documents(encoders[kind], texts), oracle.encode_document(texts, convert_to_numpy=True), strict=True
    ):
        np.testing.assert_allclose(encoding.tokens, expected, atol=1e-5)
    for encoding, expected in zip(
        encoders[kind].encode_queries([QueryText(text) for text in texts]),
        oracle.encode_query(texts, convert_to_numpy=True),
        strict=True,
    ):
        np.testing.assert_allclose(encoding.tokens, expected, atol=1e-5)


_ANOTHER_PROCESS = """
import json, sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"tried the network: {event} {args}")
sys.addaudithook(refuse)
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
out = {}
for kind, folder in json.loads(sys.argv[1]).items():
    encoder = open_encoder(folder, device="cpu", precision="float32")
    (query,) = encoder.encode_queries([QueryText(sys.argv[2])])
    out[kind] = [encoder.fingerprint, query.pooled.tolist()]
print(json.dumps(out))
"""


def test_another_process_agrees_and_none_of_it_needs_a_network(
    encoders: dict[str, Encoder], checkpoints: dict[str, Path]
) -> None:
    folders = json.dumps({kind: str(checkpoints[kind]) for kind in ("plain-mean", "plain-modules", "stanford")})
    run = subprocess.run(
        [sys.executable, "-c", _ANOTHER_PROCESS, folders, QUESTION.text],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for kind, (fingerprint, pooled) in json.loads(run.stdout).items():
        assert fingerprint == encoders[kind].fingerprint
        np.testing.assert_allclose(pooled, encoders[kind].encode_queries([QUESTION])[0].pooled, atol=1e-6)
