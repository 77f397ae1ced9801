"""Token vectors in few bits: a fixed rotation, then one step for every coordinate of every vector.

After a rotation by a random orthogonal matrix the coordinates of any unit vector behave like draws from a normal
distribution of variance 1 / dim, whatever the encoder: no dimension stands out. So one uniform quantiser, the best
for a normal distribution, serves them all, and nothing has to be stored beside the codes (Suresh et al.,
"Distributed Mean Estimation with Limited Communication", arXiv:1611.00429; steps: Max, "Quantizing for Minimum
Distortion", 1960).
Rotations keep inner products: codes are compared with the rotated query, and never turned back for a search.
What each number of bits costs in nDCG: docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from lir_agents.native.quantise import quantise
from lir_agents.threads import product

__all__ = ["DEFAULT_BITS", "Bits", "TokenCodec", "quantise_int8", "rotation"]

Bits: TypeAlias = Literal[2, 4, 8]

DEFAULT_BITS: Final[Bits] = 4

_STEPS: Final[dict[int, float]] = {2: 0.9957, 4: 0.3352, 8: 0.03125}
"""Bits to the step, in standard deviations, that loses least of a normal distribution."""

_KEPT: Final[dict[int, float]] = {2: 0.882, 4: 0.989}
"""Bits to the part of a vector's square that its inner product with the nearest codes is, on average. With 8 bits,
nothing is to be gained."""

_SEED: Final = 2004_12832
"""Of the rotation. Part of the format: another one makes every stored code meaningless."""


@dataclass(frozen=True, slots=True)
class TokenCodec:
    """How token vectors of one width lie in memory and on disk.

    A code c in 0 .. 2^bits - 1 stands for (2 c - (2^bits - 1)) * `half_worth`. A byte holds 8 / bits of them: its
    lowest bits that of coordinate j, the next ones that of coordinate `width` + j, and so on.

    Attributes:
        dim: Coordinates of a vector, >= 1.
        bits: Bits of a coordinate.
    """

    dim: int
    bits: Bits = DEFAULT_BITS

    def __post_init__(self) -> None:
        if self.bits not in get_args(Bits) or self.dim < 1:
            raise ValueError(f"no codec of {self.bits} bits for {self.dim} dimensions")

    @property
    def planes(self) -> int:
        """Coordinates in a byte."""
        return 8 // self.bits

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return -(-self.dim // self.planes)

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def half_step(self) -> float:
        """Half the distance of two neighbouring codes."""
        return float(_STEPS[self.bits] / 2 / np.sqrt(self.dim))

    @property
    def half_worth(self) -> float:
        """What half a step stands for: as much more that vectors keep their product with themselves."""
        return self.half_step / _KEPT.get(self.bits, 1.0)

    def rotate(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as codes see them, float32 [n, dim] to float32 [n, dim]; inner products stay what they are."""
        return product(vectors, rotation(self.dim))

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """float32 [n, dim], rows L2-normalised, to uint8 [n, width].

        Each coordinate gets the nearest code, but for a few that lie between two: those are chosen so that the
        inner product of each vector with what its codes stand for is the same part of its square. It is the error
        along the vector itself that moves similarities most, where they are large (Gao and Long, "RaBitQ",
        arXiv:2405.12497, divide it out by a number stored with each vector).
        """
        steps = self.rotate(np.ascontiguousarray(vectors, np.float32))
        steps *= np.float32(0.5 / self.half_step)
        return quantise(steps, self.bits, _KEPT.get(self.bits))

    def unpack(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rotated vectors that codes stand for: uint8 [n, width] to float32 [n, dim], of length about 1."""
        planes = [(data >> (plane * self.bits)) & self.levels for plane in range(self.planes)]
        codes = np.concatenate(planes, axis=1)[:, : self.dim].astype(np.float32)
        codes *= np.float32(2 * self.half_worth)
        codes -= np.float32(self.levels * self.half_worth)
        return codes

    def decode(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What `encode` was given, nearly: uint8 [n, width] to float32 [n, dim]."""
        return product(self.unpack(data), rotation(self.dim).T)


@cache
def rotation(dim: int) -> NDArray[np.float32]:
    """An orthogonal matrix drawn once and for all, float32 [dim, dim].

    `RandomState` never changes what it draws (NEP 19); the signs are fixed because libraries differ in them.
    """
    drawn = np.random.RandomState(_SEED).standard_normal((dim, dim))
    orthogonal, triangular = np.linalg.qr(drawn)
    return np.ascontiguousarray(orthogonal * np.sign(np.diag(triangular)), np.float32)


def quantise_int8(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantises each row by its largest magnitude.

    Args:
        vectors: float32 [n, dim].

    Returns:
        int8 [n, dim] in [-127, 127] and float32 scales [n], so that `data * scales[:, None]` is within half a
        scale of the input, element by element. A row of zeros gets scale 0.
    """
    scales = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
    safe = np.where(scales > 0, scales, np.float32(1))
    return np.rint(vectors / safe[:, None]).astype(np.int8), scales
