"""Compiles `lir_agents/native/*.c` into a library beside them, whenever the package is built or installed.

The library is called through ctypes and knows nothing of Python, so any C compiler will do: $CC, the system's, or
the one that comes as the wheel `ziglang`, which is asked for where there is no other. Without any the package works
as well, only slower: scoring then runs in torch, the scan and the making of codes in NumPy.
By hand: `python hatch_build.py`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand
    BuildHookInterface = object  # type: ignore[assignment,misc]

_FOLDER = Path(__file__).resolve().parent / "lir_agents" / "native"
_NAME = {"win32": "_native.dll", "darwin": "_native.dylib"}.get(sys.platform, "_native.so")
_OPTIONS = [
    *("-O3", "-shared", "-fvisibility=hidden"),
    "-ffp-contract=off",  # the same bits everywhere
    "-fno-trapping-math",  # loops with conditions take many numbers at a time; nobody asks which of them trapped
    *([] if sys.platform == "win32" else ["-fPIC", "-pthread"]),
]


def compiler() -> list[str]:
    """The command of a C compiler; nothing where there is none."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    if sys.platform != "win32" and (found := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else []


def build() -> Path | None:
    """Compiles; None where that is impossible here."""
    command, target = compiler(), _FOLDER / _NAME
    draft = target.with_suffix(".partial")
    try:
        if not command:
            raise FileNotFoundError("there is no C compiler")
        sources = [str(source) for source in sorted(_FOLDER.glob("*.c"))]
        subprocess.run([*command, *_OPTIONS, "-o", str(draft), *sources], check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        instead = "scoring runs in torch, the scan of vectors and the making of codes in NumPy, slower."
        print(f"lir-agents: nothing was compiled ({error}); {instead}", file=sys.stderr)  # noqa: T201
        return None
    draft.replace(target)  # a process that has the old one mapped keeps it
    return target


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc,valid-type]
    """What hatchling calls before it makes a wheel, an editable one too."""

    def dependencies(self) -> list[str]:
        return [] if compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or build() is None:
            return
        build_data["artifacts"].append(f"lir_agents/native/{_NAME}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    sys.exit(build() is None)
