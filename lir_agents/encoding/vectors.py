"""Vectors of length one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["unit"]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales vectors along the last axis to length one, float32 of the same shape; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)
