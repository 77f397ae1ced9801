"""Compiles `lir_agents/ranking/maxsim.c` into a library beside it, whenever the package is built or installed.

The library is called through ctypes and knows nothing of Python, so any C compiler will do: $CC, the system's, or
the one that comes as the wheel `ziglang`, which is asked for where there is no other. Without any the package works
as well, only slower: scoring then runs in torch. By hand: `python hatch_build.py`.
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

_FOLDER = Path(__file__).resolve().parent / "lir_agents" / "ranking"
_NAME = {"win32": "_maxsim.dll", "darwin": "_maxsim.dylib"}.get(sys.platform, "_maxsim.so")
_OPTIONS = [
    *("-O3", "-shared", "-fvisibility=hidden", "-ffp-contract=off"),
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
        subprocess.run([*command, *_OPTIONS, "-o", str(draft), str(_FOLDER / "maxsim.c")], check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"lir-agents: scoring is not compiled ({error}); it runs in torch, slower.", file=sys.stderr)  # noqa: T201
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
        build_data["artifacts"].append(f"lir_agents/ranking/{_NAME}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    sys.exit(build() is None)
