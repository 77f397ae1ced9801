"""What a measurement ran on, so that a number can be read a year later."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lir_agents.native.library import paths
from lir_agents.threads import available_processors

__all__ = ["describe_machine"]

_PACKAGES = ("lir-agents", "torch", "sentence-transformers", "chromadb", "lmdb", "numpy", "openvino")


def describe_machine() -> dict[str, str | int | float | dict[str, str]]:
    """Processor, what the compiled loops use of it, usable cores, memory in GiB, operating system, Python and the
    versions that matter.

    What cannot be found out is left out.
    """
    described: dict[str, str | int | float | dict[str, str]] = {
        "cpu": _cpu_model(),
        "instructions": (paths() or ("none",))[-1],
        "cores": available_processors(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": _versions().get("torch", ""),
        "versions": _versions(),
    }
    memory = _memory_gib()
    return described | ({"memory_gib": memory} if memory else {})


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _memory_gib() -> float:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return 0.0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
