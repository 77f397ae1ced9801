"""Which library encodes: OpenVINO where it agrees with torch, remembered per machine; torch where it does not."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lir_agents.arrays import Encoding
from lir_agents.config import EncoderSettings
from lir_agents.encoding import backend as backends
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.cache import cache_folder, publish, recall
from lir_agents.encoding.model import States
from lir_agents.encoding.open import open_encoder
from lir_agents.encoding.probe import Probe, disagreement
from lir_agents.encoding.transformer import TransformerEncoder
from lir_agents.errors import ConfigError
from tests.encoding_checkpoints import save_plain

if find_spec("openvino") is None:  # importorskip would import it, and its telemetry with it: 3 s a conversion
    pytest.skip("the extra `openvino` is not installed", allow_module_level=True)

from lir_agents.encoding.openvino_forward import OpenVinoForward

QUERY = QueryText("how many days off do i get?")
TEXTS = ["leave " * 400, "", "Ask HR.", "Everybody has thirty days of leave. " * 12, "東京 🙂", "to be " * 20, "a"]
QUERIES = [
    QUERY,
    QueryText("and for children?", "How many days off do I get? Thirty days a year. " * 8),
    QueryText("really?", "word " * 2000),
    QueryText(""),
    QueryText("long " * 500),
    QueryText("so?", "yes"),
]


def opened(spec: Path | None, backend: str, precision: str | None = "float32") -> TransformerEncoder:
    settings = EncoderSettings(backend=backend)  # type: ignore[arg-type]
    encoder = open_encoder(spec, device="cpu", precision=precision, settings=settings)  # type: ignore[arg-type]
    assert isinstance(encoder, TransformerEncoder)
    return encoder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "plain"
    save_plain(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIR_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoders"


@pytest.fixture(scope="module")
def fast() -> TransformerEncoder:
    return opened(None, "openvino", None)


@pytest.fixture(scope="module")
def exact() -> TransformerEncoder:
    return opened(None, "torch")


def both(encoder: TransformerEncoder) -> list[Encoding]:
    found = dict(encoder.encode_documents(TEXTS))
    return [*(found[i] for i in range(len(TEXTS))), *encoder.encode_queries(QUERIES)]


def worst(ours: list[Encoding], oracle: list[Encoding]) -> tuple[float, float]:
    """Least cosine of pooled vectors, and of token vectors."""
    assert [one.spans.tolist() for one in ours] == [other.spans.tolist() for other in oracle]
    pairs = list(zip(ours, oracle, strict=True))
    return (
        min(float(one.pooled @ other.pooled) for one, other in pairs),
        min(float((one.tokens * other.tokens).sum(axis=1).min()) for one, other in pairs),
    )


# ---------------------------------------------------------------- the same vectors


def test_float32_is_torchs_float32(exact: TransformerEncoder) -> None:
    assert min(worst(both(opened(None, "openvino")), both(exact))) > 1 - 1e-5


def test_bfloat16_rounds_no_more_than_torchs_may(exact: TransformerEncoder) -> None:
    pooled, tokens = worst(both(opened(None, "openvino", "bfloat16")), both(exact))
    assert pooled > 0.9995
    assert tokens > 0.998


def test_a_small_model_of_other_lengths_agrees(plain: Path) -> None:
    assert min(worst(both(opened(plain, "openvino")), both(opened(plain, "torch")))) > 1 - 1e-4


@pytest.mark.parametrize(
    ("architecture", "first"),
    [
        ({"architecture": "bert"}, 0),
        ({"architecture": "roberta"}, 1),  # counts from behind the position of padding
        ({"architecture": "modernbert", "local_attention": 16, "global_attn_every_n_layers": 2}, None),
    ],
    ids=["bert", "roberta", "modernbert, which also masks by itself"],
)
def test_a_model_is_told_positions_where_it_takes_them(
    architecture: dict[str, object], first: int | None, tmp_path: Path, cache: Path
) -> None:
    save_plain(tmp_path / "model", **architecture)
    ours = opened(tmp_path / "model", "openvino")
    assert min(worst(both(ours), both(opened(tmp_path / "model", "torch")))) > 1 - 1e-4
    (entry,) = cache.iterdir()
    record = recall(entry)
    assert record is not None
    assert record["first_position"] == first


def test_a_model_that_looks_nearby_only_is_found_out_when_it_is_given_a_whole_mask(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearby = {"architecture": "modernbert", "local_attention": 16, "global_attn_every_n_layers": 2}
    save_plain(tmp_path / "model", **nearby)
    monkeypatch.setattr(backends, "first_position", lambda _: 0)
    opened(tmp_path / "model", "openvino").encode_queries([QUERY])
    (entry,) = cache.iterdir()
    record = recall(entry)
    assert record is not None
    assert record["first_position"] is None


def test_a_conversion_that_fails_leaves_the_hosts_logging_alone(plain: Path) -> None:
    from torch import nn

    class Broken(nn.Module):
        def forward(self, **_: object) -> None:
            raise TypeError("takes no positions")

    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:], root.manager.disable
    with pytest.raises(Exception, match="no positions"):
        backends.convert(Broken(), placed=True)
    assert (root.level, root.filters[:], root.handlers[:], root.manager.disable) == before


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_padding_in_a_text_stands_where_the_model_would_have_it(
    architecture: str, tmp_path: Path, cache: Path
) -> None:
    """A text may say "[PAD]"; RoBERTa gives it the position of padding, and does not count it."""
    save_plain(tmp_path / "model", architecture=architecture)
    asked = [QueryText("the [PAD] cat sat"), QueryText("[PAD]"), QueryText("and the dog?", "[PAD] [PAD] we talked")]
    pair = [opened(tmp_path / "model", backend) for backend in ("openvino", "torch")]
    found = [one.encode_queries(asked) for one in pair]
    assert min(worst(*found)) > 1 - 1e-5
    texts = ["cat [PAD] " * times for times in (1, 7, 20)]
    written = [[each for _, each in sorted(one.encode_documents(texts), key=lambda pair: pair[0])] for one in pair]
    assert min(worst(*written)) > 1 - 1e-5


def test_a_text_that_overflows_spoils_no_others(tmp_path: Path, cache: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_plain(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    (table,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    encoder = opened(tmp_path / "model", "torch")
    bad = encoder._inputs().queries([QueryText("zurich")])[0].ids[1]
    weights[table][bad] = float("nan")
    save_file(weights, file, {"format": "pt"})
    encoder = opened(tmp_path / "model", "openvino")
    good = QueryText("the cat sat")
    (alone,) = encoder.encode_queries([good])
    (together, spoilt) = encoder.encode_queries([good, QueryText("we talked about zurich")])
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    assert np.isnan(spoilt.tokens).any()
    forward = encoder._run()
    assert isinstance(forward, OpenVinoForward)
    short, (mine, other) = (
        forward._short,
        (one.ids for one in encoder._inputs().queries([good, QueryText("zurich")])),
    )
    short._compiled((32, short._lanes))
    (own,), (spoilt_too,) = short._run([[mine], [other]], crowded=True)  # of two callers that met
    np.testing.assert_array_equal(own, forward([mine]).hidden[0])
    assert np.isnan(spoilt_too).any()


def test_callers_share_where_a_large_batch_would_not_give_the_same_bits(tmp_path: Path, cache: Path) -> None:
    """Models with rotary positions: the graph of any shape rounds otherwise than those of one row."""
    save_plain(tmp_path / "model", architecture="eurobert")
    encoder = opened(tmp_path / "model", "openvino")
    turns = [QUERY, QueryText(QUERY.text, "we talked about the office"), QueryText("and the dog?")]
    alone = [encoder.encode_queries([one])[0] for one in turns]
    for one, other in zip(encoder.encode_queries(turns), alone, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
    (entry,) = cache.iterdir()
    record = recall(entry)
    assert record is not None
    assert (record["shared"], record["first_position"]) == (True, 0)


def test_a_vector_does_not_depend_on_what_is_encoded_beside_it(fast: TransformerEncoder) -> None:
    """Torch's bfloat16 does not promise as much: there a passage's bits follow from its neighbours' lengths."""
    together = both(fast)
    alone = [dict(fast.encode_documents([text]))[0] for text in TEXTS]
    alone += [fast.encode_queries([query])[0] for query in QUERIES]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.pooled, other.pooled)


def test_eight_threads_get_what_one_gets(fast: TransformerEncoder) -> None:
    queries = [QueryText(f"question {i} " * (i % 9 + 1), "so far " * (i % 4 * 20)) for i in range(48)]
    alone = [fast.encode_queries([query])[0] for query in queries]
    with ThreadPoolExecutor(8) as threads:
        documents = [threads.submit(lambda: dict(fast.encode_documents(TEXTS))) for _ in range(3)]
        together = list(threads.map(lambda query: fast.encode_queries([query])[0], queries))
        wanted = dict(fast.encode_documents(TEXTS))
        for done in documents:
            for i, encoding in done.result().items():
                np.testing.assert_array_equal(encoding.tokens, wanted[i].tokens)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_the_fingerprint_does_not_know_the_library(plain: Path) -> None:
    assert opened(plain, "openvino").fingerprint == opened(plain, "torch").fingerprint


# ---------------------------------------------------------------- chosen once


def choose(folder: Path, backend: str = "auto") -> TransformerEncoder:
    encoder = opened(folder, backend)
    encoder.encode_queries([QUERY])
    assert encoder.backend is not None
    return encoder


def test_the_choice_is_kept_and_asked_once(plain: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose(plain)
    (entry,) = cache.iterdir()
    record = recall(entry)
    assert record is not None
    assert (record["name"], record["reason"]) == (first.backend.name, first.backend.reason)
    assert record["agrees"]
    assert "ms in openvino" in record["reason"]
    monkeypatch.setattr(backends, "convert", lambda *_, **__: pytest.fail("converted again"))
    assert choose(plain).backend == first.backend
    assert choose(plain, "openvino").backend is not None


def test_other_weights_and_another_precision_are_asked_anew(plain: Path, cache: Path, tmp_path: Path) -> None:
    save_plain(tmp_path / "other", seed=1)
    choose(plain)
    choose(tmp_path / "other")
    opened(plain, "auto", "bfloat16").encode_queries([QUERY])
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "record.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut short", "gone"])
def test_a_damaged_cache_is_made_again(name: str, damage: str, plain: Path, cache: Path) -> None:
    wanted = choose(plain, "openvino").encode_queries(QUERIES)
    (entry,) = cache.iterdir()
    content = bytearray((entry / name).read_bytes())
    (entry / name).unlink()
    if damage != "gone":
        content[len(content) // 2] ^= 0x55
        (entry / name).write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    found = choose(plain, "openvino").encode_queries(QUERIES)
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
    assert [path.name for path in cache.iterdir()] == [entry.name]
    assert recall(entry) is not None


def test_without_a_place_to_keep_it_the_model_stays_in_memory(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIR_CACHE_DIR", str(tmp_path / "file"))
    encoder = choose(plain, "openvino")
    assert len(encoder.encode_queries(QUERIES)) == len(QUERIES)
    assert "not kept" in caplog.text


def test_processes_that_make_the_same_entry_do_not_mix_theirs(tmp_path: Path) -> None:
    entry = tmp_path / "entries" / "one"

    def make(number: int) -> None:
        def write(folder: Path) -> None:
            for name in "abc":  # slowly enough to be overtaken
                (folder / name).write_text(str(number) * 10_000)

        publish(entry, {"number": number}, write)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(24)))
    record = recall(entry)
    assert record is not None
    assert {(entry / name).read_text() for name in "abc"} == {str(record["number"]) * 10_000}
    assert list(entry.parent.iterdir()) == [entry]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIR_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LIR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lir-agents"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which the standard says to ignore")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lir-agents"


# ---------------------------------------------------------------- torch where it has to be


def test_a_model_that_cannot_be_converted_stays_in_torch_and_is_not_tried_again(
    plain: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, *, placed: bool) -> None:
        raise RuntimeError("no rule for aten::strange")

    monkeypatch.setattr(backends, "convert", fail)
    chosen = choose(plain).backend
    assert chosen is not None
    assert (chosen.name, "aten::strange" in chosen.reason) == ("torch", True)
    monkeypatch.setattr(backends, "convert", lambda *_, **__: pytest.fail("tried again"))
    assert choose(plain).backend == chosen
    with pytest.raises(ConfigError, match="aten::strange") as caught:
        choose(plain, "openvino")
    assert caught.value.setting == "encoder.backend"


def test_a_conversion_that_ignores_the_mask_is_found_out(
    plain: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import Tensor, nn

    good = backends.convert

    class Blind(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor, **positions: Tensor) -> object:
            return self.model(input_ids=input_ids, attention_mask=attention_mask | 1, **positions)

    def convert(model: nn.Module, *, placed: bool) -> object:
        return good(Blind(model), placed=placed)

    monkeypatch.setattr(backends, "convert", convert)
    chosen = choose(plain).backend
    assert chosen is not None
    assert chosen.name == "torch"
    assert "batch differ" in chosen.reason


def test_a_slower_conversion_is_not_used_unless_asked_for(
    plain: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "race", lambda *_: {"torch": 1.0, "openvino": 2.0})
    chosen = choose(plain).backend
    assert chosen is not None
    assert (chosen.name, chosen.reason) == ("torch", "a question takes 2.0 ms in openvino, 1.0 ms in torch")
    assert opened(plain, "auto").encode_queries([QUERY])
    encoder = choose(plain, "openvino")
    assert min(worst(encoder.encode_queries(QUERIES), opened(plain, "torch").encode_queries(QUERIES))) > 1 - 1e-4


@pytest.mark.parametrize("spoilt", ["noise", "nan", "order"])
def test_the_probe_refuses_what_ranks_otherwise(spoilt: str, exact: TransformerEncoder) -> None:
    probe = Probe.of(exact._inputs())
    good = exact._run()

    def fast(rows: list[np.ndarray]) -> States:
        hidden = good(rows).hidden.copy()
        if spoilt == "noise":
            hidden += np.random.default_rng(0).normal(0, 0.1, hidden.shape).astype(np.float32)
        elif spoilt == "nan":
            hidden[0, 0] = np.nan
        else:  # the first token of every text turned towards that of one of them
            hidden[:, :1] = hidden[:, :1] + 40 * hidden[:1, :1]
        return States(hidden)

    assert disagreement(probe, good, good) is None
    assert disagreement(probe, good, fast) is not None


def test_a_checkpoint_with_modules_of_its_own_stays_in_torch(tmp_path: Path) -> None:
    save_plain(tmp_path / "dense", dense=True)
    chosen = choose(tmp_path / "dense").backend
    assert chosen is not None
    assert (chosen.name, "modules" in chosen.reason) == ("torch", True)


# ---------------------------------------------------------------- other processes


def run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_ENCODE = """
import json, sys
{before}
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
encoder = open_encoder(sys.argv[1], precision="float32")
encoder.encode_queries([QueryText("cat"), QueryText("dog", "cat " * 40)])
print(json.dumps([encoder.backend.name, encoder.backend.reason, sorted(sys.modules)]))
"""


def test_without_the_package_torch_encodes(plain: Path) -> None:
    code = _ENCODE.format(before="sys.modules['openvino'] = None")
    name, reason, _ = json.loads(run(code, str(plain)))
    assert (name, reason) == ("torch", "openvino is not installed")


def test_the_environment_decides(plain: Path) -> None:
    name, reason, _ = json.loads(run(_ENCODE.format(before=""), str(plain), LIR_ENCODER__BACKEND="torch"))
    assert (name, reason) == ("torch", "asked for")


def test_a_backend_that_does_not_exist_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIR_ENCODER__BACKEND", "abacus")
    with pytest.raises(ConfigError) as caught:
        open_encoder(plain)
    assert caught.value.setting == "encoder.backend"


def test_nothing_is_reported_and_a_second_process_loads_no_transformers(plain: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "LIR_CACHE_DIR": str(tmp_path / "cache"), "LIR_ENCODER__BACKEND": "openvino"}
    for turn in ("first", "second"):
        name, _, modules = json.loads(run(_ENCODE.format(before=""), str(plain), **environment))
        assert name == "openvino"
        assert not [module for module in modules if module.startswith("openvino_telemetry")]
        assert ("transformers" in modules) is (turn == "first")
    assert not (home / "intel").exists()
