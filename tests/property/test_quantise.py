"""Codes of few bits: the compiled loop makes those of NumPy, and both follow the rule, coordinate by coordinate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lir_agents.native import quantise as module
from lir_agents.native.library import paths
from lir_agents.native.quantise import quantise

COMPILED = pytest.mark.skipif(not paths(), reason="the package was built without a compiler")
_KEPT = (None, 0.882, 0.989, 1.5, 0.2)


def scene(seed: int, kind: str, rows: int, dim: int) -> NDArray[np.float32]:
    """Coordinates in steps: as they are, or such that much is equal, far out, or right between two codes."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((rows, dim)) * rng.choice([0.3, 1, 3, 20])
    match kind:
        case "few values":
            steps = rng.choice(steps.ravel()[:5], steps.shape)
        case "halves":
            steps = np.round(steps * 4) / 4
        case "nearly halves":
            steps = np.nextafter(np.float32(1) * np.round(steps * 2) / 2, rng.choice([-9, 9]), dtype=np.float32)
        case "zeros":
            steps = np.zeros_like(steps)
    return steps.astype(np.float32)


@COMPILED
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["normal", "few values", "halves", "nearly halves", "zeros"]),
    rows=st.sampled_from([0, 1, 3, 600]),
    dim=st.sampled_from([1, 7, 15, 16, 17, 100, 128, 384]),
    bits=st.sampled_from([2, 4, 8]),
    kept=st.sampled_from(_KEPT),
)
def test_the_compiled_codes_are_those_of_numpy(seed, kind, rows, dim, bits, kept) -> None:
    steps = scene(seed, kind, rows, dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "paths", lambda: ())
        by_numpy = quantise(steps, bits, kept)
    np.testing.assert_array_equal(quantise(steps, bits, kept), by_numpy)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["normal", "few values", "halves"]),
    dim=st.sampled_from([1, 17, 128]),
    bits=st.sampled_from([2, 4, 8]),
    kept=st.sampled_from(_KEPT),
)
def test_codes_follow_the_rule(seed, kind, dim, bits, kept) -> None:
    """Each code is the nearest or, for at most 24 coordinates that lie between two, the other neighbour; the
    product with the codes comes nearer to what is wanted, and no move that it needs is left out."""
    steps = scene(seed, kind, 4, dim).astype(np.float64)
    codes, levels = unpacked(quantise(steps.astype(np.float32), bits, kept), bits, dim), (1 << bits) - 1
    nearest = np.clip(np.floor(steps + (levels + 1) / 2), 0, levels)
    moved = codes != nearest
    rest = steps - (nearest - levels / 2)
    assert (moved.sum(axis=1) <= 24).all()
    assert (codes - nearest)[moved] == pytest.approx(np.sign(rest)[moved])
    assert (np.abs(rest)[moved] >= 0.25).all()
    if kept is None:
        assert not moved.any()
        return
    wanted = kept * (steps**2).sum(axis=1)
    before, after = (((one - levels / 2) * steps).sum(axis=1) for one in (nearest, codes))
    assert (np.abs(after - wanted) <= np.abs(before - wanted) + 1e-3 * np.abs(wanted)).all()
    for row in np.flatnonzero(np.abs(after - wanted) > 1e-3 + 1e-3 * np.abs(wanted)):
        way = np.sign(rest[row])
        gain = way * steps[row] * np.sign(wanted[row] - before[row])
        inside = (nearest[row] + way >= 0) & (nearest[row] + way <= levels)
        left = (np.abs(rest[row]) > 0.25) & (gain > 0) & inside & ~moved[row]
        short = (wanted[row] - after[row]) * np.sign(wanted[row] - before[row])
        # What is left would each overshoot by more than is missing, or there were enough moves.
        assert moved[row].sum() == 24 or short <= 0 or not left.any() or short <= gain[left].max() / 2 + 1e-3


def unpacked(data: NDArray[np.uint8], bits: int, dim: int) -> NDArray[np.int64]:
    planes = [(data.astype(np.int64) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.concatenate(planes, axis=1)[:, :dim]
