"""Each door by itself: what importing it brings along, and what it says where its framework is not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *, blocked: tuple[str, ...] = ()) -> str:
    program = BLOCK.format(names=blocked) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_langchains_door_leaves_llama_index_alone() -> None:
    run(
        """
        from lir_agents.langchain import (
            LateInteractionCompressor,
            LateInteractionRetriever,
            LateInteractionSearchTool,
            LateInteractionVectorStore,
        )
        loaded = {name.split(".")[0] for name in sys.modules}
        assert not loaded & {"llama_index", "langchain"}, loaded
        """,
        blocked=("llama_index", "langchain"),
    )


def test_llama_indexs_door_leaves_langchains_alone() -> None:
    run(
        """
        from lir_agents.llama_index import (
            LateInteractionMemoryBlock,
            LateInteractionPostprocessor,
            LateInteractionRetriever,
            LateInteractionToolSpec,
        )
        assert "lir_agents.langchain" not in sys.modules
        assert not any(name.split(".")[0] == "langchain" for name in sys.modules)
        """,
        blocked=("langchain",),
    )


@pytest.mark.parametrize(
    ("door", "name", "blocked", "extra"),
    [
        ("langchain", "LateInteractionMiddleware", "langchain", "langchain"),
        ("llama_index", "LateInteractionRetriever", "llama_index", "llama-index"),
        ("llama_index", "LateInteractionMemoryBlock", "llama_index", "llama-index"),
        ("llama_index", "LateInteractionPostprocessor", "llama_index", "llama-index"),
        ("llama_index", "LateInteractionToolSpec", "llama_index", "llama-index"),
    ],
)
def test_a_missing_extra_names_the_pip_line(door: str, name: str, blocked: str, extra: str) -> None:
    said = run(
        f"""
        import lir_agents.{door}
        from lir_agents import MissingExtra
        try:
            from lir_agents.{door} import {name}
        except MissingExtra as error:
            print(error)
        """,
        blocked=(blocked,),
    )
    assert f"pip install 'lir-agents[{extra}]'" in said
    assert name in said


def test_a_name_that_is_not_there() -> None:
    run(
        """
        import lir_agents.langchain, lir_agents.llama_index
        for door in (lir_agents.langchain, lir_agents.llama_index):
            assert set(dir(door)) == set(door.__all__)
            try:
                door.Nothing
            except AttributeError as error:
                assert "Nothing" in str(error)
            else:
                raise AssertionError
        """
    )
