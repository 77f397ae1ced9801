"""Vectors of length one, and what is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import IntegrityError

__all__ = ["require_finite", "unit"]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales vectors along the last axis to length one, float32 of the same shape; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def require_finite(vectors: NDArray[np.float32]) -> None:
    """Refuses what no code stands for.

    Raises:
        IntegrityError: There is a NaN or an infinity among them.
    """
    if not np.isfinite(vectors).all():
        raise IntegrityError(
            "The encoder gave something that is no vector.", remedy="Check the model and its precision."
        )
