"""The compiled loop is made, found, and done without."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lir_agents.arrays import PackedTokens
from lir_agents.codes import TokenCodec
from lir_agents.encoding.vectors import require_finite
from lir_agents.errors import IntegrityError
from lir_agents.ranking import kernels, native
from lir_agents.ranking.maxsim import meet

ROOT = Path(__file__).parents[2]


def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scene():
    rng, codec = np.random.default_rng(0), TokenCodec(48)
    query = rng.standard_normal((5, 48)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    matrices = [rng.integers(0, 256, (n, codec.width), dtype=np.uint8) for n in (30, 0, 7)]
    return query, PackedTokens.pack(matrices, codec)


def test_building_without_a_compiler_says_so_and_goes_on(monkeypatch, capfd):
    build = hook()
    monkeypatch.setattr(build, "compiler", lambda: [])
    assert build.build() is None
    assert "runs in torch" in capfd.readouterr().err
    monkeypatch.setattr(build, "compiler", lambda: [sys.executable, "-c", "raise SystemExit(1)"])
    assert build.build() is None
    assert build.CustomBuildHook.dependencies(object()) == []


def test_where_there_is_no_compiler_one_is_asked_for(monkeypatch):
    build = hook()
    monkeypatch.setattr(build, "compiler", lambda: [])
    assert build.CustomBuildHook.dependencies(object()) == ["ziglang"]


def test_without_the_library_torch_scores_the_same(monkeypatch, scene):
    query, packed = scene
    with_it = meet(query, packed)
    monkeypatch.setattr(native, "paths", lambda: ())
    assert kernels.best_kernel() == "exact"
    without = meet(query, packed)
    np.testing.assert_allclose(without.blocks, with_it.blocks, atol=0.03)
    np.testing.assert_allclose(without.passages, with_it.passages, atol=0.03)


@pytest.mark.skipif(not hook().compiler(), reason="there is no C compiler")
def test_the_library_is_compiled_from_what_is_here(monkeypatch, tmp_path):
    build = hook()
    target = tmp_path / build._NAME
    (tmp_path / "maxsim.c").write_bytes((build._FOLDER / "maxsim.c").read_bytes())
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    assert build.build() == target
    loads = f"import ctypes; print(ctypes.CDLL({str(target)!r}).lir_best_path() >= 0)"
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_looking_into_a_store_does_not_load_torch():
    """`lir doctor` starts a process for each store: seconds, if it loaded what only scoring needs."""
    looks = "import sys, lir_agents.stores.tokens, lir_agents.stores.probe; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_the_loop_was_not_made_for_is_refused(scene):
    _, packed = scene
    with pytest.raises(ValueError, match="no blocks of 32"):
        native.block_maxima(packed.lent(), np.ones((5, 128), np.int8), np.ones(5, np.float32), 32)
    with pytest.raises(IntegrityError, match="no vector"):
        require_finite(np.array([[np.nan]], np.float32))
