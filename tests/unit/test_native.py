"""The compiled loop is made, found, and done without."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import textwrap
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lir_agents.arrays import LentTokens, PackedTokens
from lir_agents.codes import TokenCodec
from lir_agents.native import library
from lir_agents.native import maxsim as native
from lir_agents.ranking import kernels
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
    told = capfd.readouterr().err
    assert "runs in torch" in told
    assert "the making of codes in NumPy" in told
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
    monkeypatch.setattr(kernels, "paths", lambda: ())
    assert kernels.best_kernel() == "exact"
    without = meet(query, packed)
    np.testing.assert_allclose(without.blocks, with_it.blocks, atol=0.03)
    np.testing.assert_allclose(without.passages, with_it.passages, atol=0.03)


@pytest.mark.skipif(not hook().compiler(), reason="there is no C compiler")
def test_the_library_is_compiled_from_what_is_here(monkeypatch, tmp_path):
    build = hook()
    target = tmp_path / build._NAME
    for source in (path.name for end in "ch" for path in build._FOLDER.glob(f"*.{end}")):
        (tmp_path / source).write_bytes((build._FOLDER / source).read_bytes())
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    assert build.build() == target
    loads = f"import ctypes; print(ctypes.CDLL({str(target)!r}).lir_best_path() >= 0)"
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.skipif(not hook().compiler(), reason="there is no C compiler")
def test_where_there_is_a_compiler_there_is_a_library():
    """Otherwise every test of the loops would be skipped, and nothing said."""
    assert library.paths()


@pytest.mark.skipif(not hook().compiler(), reason="there is no C compiler")
@pytest.mark.parametrize("source", ["int lir_layout(void) { return -1; }", "int another_library;"])
def test_a_library_of_other_sources_is_not_used_and_named(monkeypatch, tmp_path, source):
    (tmp_path / "other.c").write_text(source)
    target = tmp_path / hook()._NAME
    subprocess.run(
        [*hook().compiler(), "-shared", "-fPIC", "-o", str(target), str(tmp_path / "other.c")], check=True
    )
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    with pytest.warns(UserWarning, match="other sources"):
        assert library.library.__wrapped__() is None


def test_where_there_is_no_library_none_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.library.__wrapped__() is None


def test_looking_into_a_store_does_not_load_torch():
    """`lir doctor` starts a process for each store: seconds, if it loaded what only scoring needs."""
    looks = "import sys, lir_agents.stores.tokens, lir_agents.stores.probe; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_the_loop_was_not_made_for_is_refused(scene):
    _, packed = scene
    with pytest.raises(ValueError, match="no blocks of 32"):
        native.block_maxima(packed, np.ones((5, 48), np.float32), 32)
    for block in (0, -8):
        with pytest.raises(ValueError, match="no blocks of"):
            native.block_maxima(packed, np.ones((5, 48), np.float32), block)
    for path in ("", "mmx"):
        with pytest.raises(ValueError, match="no path"):
            native.block_maxima(packed, np.ones((5, 48), np.float32), 24, path)
    with pytest.raises(ValueError, match=r"\(5, 47\) where \(5, 48\)"):
        native.block_maxima(packed, np.ones((5, 47), np.float32), 24)
    with pytest.raises(ValueError, match=r"\(5, 64\) where \(5, 128\)"):
        native.block_maxima(packed, native.Digits(np.ones((5, 64), np.int8), np.ones(5, np.float32)), 24)
    with pytest.raises(ValueError, match=r"\(4,\) where \(5,\)"):
        native.block_maxima(packed, native.Digits(np.ones((5, 128), np.int8), np.ones(4, np.float32)), 24)
    with pytest.raises(ValueError, match=r"\(1,\) where \(3,\)"):
        native.block_maxima(
            LentTokens(np.array([packed.data.ctypes.data]), packed.lengths, packed.codec), np.ones((5, 48)), 24
        )
    with pytest.raises(ValueError, match=r"\(37, 24\) where \(37, 12\)"):
        native.block_maxima(PackedTokens(packed.data, packed.offsets, TokenCodec(48, 2)), np.ones((5, 48)), 24)
    with pytest.raises(ValueError, match="vectors"):
        native.block_maxima(PackedTokens(packed.data, packed.offsets, None), np.ones((5, 48)), 24)


COMPILED = pytest.mark.skipif(not library.paths(), reason="the package was built without a compiler")


@pytest.fixture(scope="module")
def large():
    """Enough tokens to have help with, and what is found without."""
    rng, codec = np.random.default_rng(1), TokenCodec(64)
    packed = PackedTokens.pack([rng.integers(0, 256, (n, codec.width), dtype=np.uint8) for n in [150] * 100], codec)
    query = rng.standard_normal((8, 64)).astype(np.float32)
    return query, packed


@COMPILED
def test_callers_at_once_do_not_mix_up_what_they_are_helped_with(large, monkeypatch):
    monkeypatch.setattr(native, "several_processors", lambda: True)
    query, packed = large
    queries = [query * sign + shift for sign in (1, -1) for shift in (0, 0.1, 0.2, 0.3)]
    wanted = [native.block_maxima(packed, one, 24, helped=False) for one in queries]

    def ask(at: int) -> bool:
        found = native.block_maxima(packed, queries[at % 8], 24)
        return all(np.array_equal(a, b) for a, b in zip(found, wanted[at % 8], strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(800)))


@COMPILED
def test_a_query_keeps_the_rotation_that_it_points_to(large, monkeypatch):
    """Two threads that come first at once each make one; whichever is in no cache must not be let go."""
    query, packed = large
    made = []

    make = native._rotation.__wrapped__

    def rotation(dim):
        found = make(dim)
        made.append(weakref.ref(found.kept[0]))
        return found

    monkeypatch.setattr(native, "_rotation", rotation)
    monkeypatch.setattr(native, "_blank", native._blank.__wrapped__)
    asked = native._query(query, packed.codec)
    gc.collect()
    assert made[0]() is not None
    del asked
    gc.collect()
    assert made[0]() is None


_HELPED = """
    import os, sys
    import numpy as np
    from lir_agents.arrays import PackedTokens
    from lir_agents.codes import TokenCodec
    from lir_agents.native import maxsim as native

    native.several_processors = lambda: True
    codec = TokenCodec(64)
    packed = PackedTokens.pack([np.full((150, codec.width), n, np.uint8) for n in range(100)], codec)
    query = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    threads = lambda: set(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else set()
"""


def _helped(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_HELPED) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    assert not done.stderr
    return done.stdout


@COMPILED
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux shows them")
def test_one_thread_helps_and_only_with_much():
    """Ticks of the processor that the new thread has used say that it works."""
    told = _helped("""
        before = threads()
        native.block_maxima(PackedTokens(packed.data[:1500], packed.offsets[:11], codec), query, 24)
        native.block_maxima(packed, query, 24, helped=False)
        assert threads() == before
        for _ in range(3000):
            native.block_maxima(packed, query, 24)
        (helper,) = threads() - before
        used = open(f"/proc/self/task/{helper}/stat").read().rpartition(")")[2].split()
        print(int(used[11]) + int(used[12]) > 0)
    """)
    assert told == "True\n"


@COMPILED
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_process_gets_a_helper_of_its_own():
    """The thread that helps does not come along into a child, which must not wait for it."""
    told = _helped("""
        found, children = native.block_maxima(packed, query, 24), []
        for _ in range(3):
            if not (child := os.fork()):
                alone = len(threads())
                again = [native.block_maxima(packed, query, 24) for _ in range(20)]
                right = all(np.array_equal(each[1], found[1]) for each in again)
                os._exit(not (right and len(threads()) == 2 * alone))
            children.append(child)
        print([os.waitpid(child, 0)[1] for child in children])
    """)
    assert told == "[0, 0, 0]\n"
