"""Keeps small work on the thread that does it.

torch's kernels share their work out with OpenMP, a team of threads for every thread that calls, and the teams of
some builds spin while they wait. A search is many products of a millisecond, in threads that LangGraph makes anew
each time: waking a team costs more than it saves (measured on 2 cores: 16 ms of processor time for a MaxSim that
takes 2 alone), and eight searches at once get in each other's way. OpenBLAS, which NumPy multiplies with, does the
same. So what is small runs on one thread, and the settings of the process that uses this package stay as they are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController

__all__ = ["alone", "available_processors", "product"]

_SMALL = 1 << 28
"""Multiplications that one thread does in some ten milliseconds."""


_CGROUPS = Path("/sys/fs/cgroup")


def available_processors() -> int:
    """Processors that this process may use, >= 1: those it may run on, or as many as a container's share of their
    time comes to, rounded up. With more threads than that, a container is stopped for the rest of each period."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _share(_CGROUPS))))


def _share(cgroups: Path) -> float:
    """How many processors' time the control group of a container may take; infinite where nothing limits it.

    In a container these files are its own group's: `cpu.max` of version 2, else `cpu/cpu.cfs_*_us` of version 1.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # not there, or "max"
            quota, period = map(int, " ".join((cgroups / name).read_text() for name in names).split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf


@cache
def _openmp() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


@contextmanager
def alone(small: bool = True) -> Iterator[None]:
    """Within it, torch works on the calling thread only; other threads notice nothing.

    Args:
        small: Whether there is so little to do. False: nothing changes.
    """
    if not small:
        yield
        return
    import torch  # here: whoever only looks into a store does without

    torch.get_num_threads()  # a thread's first question sets its team to the process's size: before, not within
    with _openmp().limit(limits=1):  # OpenMP keeps this number per thread
        yield


def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """`left @ right`, on the calling thread where it is small. Both of one floating dtype."""
    with alone(left.size * (right.shape[1] if right.ndim > 1 else 1) <= _SMALL):
        found: NDArray[Any] = (_tensor(left) @ _tensor(right)).numpy()
    return found


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    """The same memory; a copy of what torch does not share, read-only or running backwards."""
    import torch

    shareable = values.flags.writeable and min(values.strides, default=0) >= 0
    return torch.from_numpy(values if shareable else values.copy())
