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

from lir_agents.threads import product

__all__ = ["DEFAULT_BITS", "Bits", "TokenCodec", "quantise_int8", "rotation"]

Bits: TypeAlias = Literal[2, 4, 8]

DEFAULT_BITS: Final[Bits] = 4

_STEPS: Final[dict[int, float]] = {2: 0.9957, 4: 0.3352, 8: 0.03125}
"""Bits to the step, in standard deviations, that loses least of a normal distribution."""

_KEPT: Final[dict[int, float]] = {2: 0.882, 4: 0.989}
"""Bits to the part of a vector's square that its inner product with the nearest codes is, on average. With 8 bits,
nothing is to be gained."""

_BETWEEN: Final = 0.25
"""Steps from the nearest code at which a coordinate lies between two. What codes stand for lies nowhere between."""

_MOVES: Final = 24
"""Most coordinates of a vector that get the second nearest code."""

_ROWS: Final = 512
"""Vectors coded at a time, so that they stay in a core's own cache."""

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
        codes = np.floor(steps + np.float32((self.levels + 1) / 2))
        np.clip(codes, 0, self.levels, out=codes)
        for at in range(0, len(codes) if self.bits in _KEPT else 0, _ROWS):
            _align(steps[at : at + _ROWS], codes[at : at + _ROWS], self.levels, _KEPT[self.bits])
        flat = np.zeros((len(codes), self.planes * self.width), np.uint8)
        flat[:, : self.dim] = codes
        data = flat[:, : self.width].copy()
        for plane in range(1, self.planes):
            data |= flat[:, plane * self.width : (plane + 1) * self.width] << (plane * self.bits)
        return data

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


def _align(steps: NDArray[np.float32], codes: NDArray[np.float32], levels: int, kept: float) -> None:
    """Moves a few of the codes, in place, to the other neighbour, those first that cost least for what they bring.

    Args:
        steps: float32 [n, dim], coordinates in steps.
        codes: float32 [n, dim], the nearest codes.
        levels: The largest code.
        kept: What part of a vector's square its inner product with its codes should be.
    """
    values = codes - np.float32(levels / 2)
    rest = steps - values
    wanted = np.float32(kept) * np.einsum("ij,ij->i", steps, steps) - np.einsum("ij,ij->i", values, steps)
    way = np.sign(rest)
    gain = way * steps * np.sign(wanted)[:, None]
    np.abs(rest, out=rest)
    moved = codes + way
    useful = (rest >= _BETWEEN) & (gain > 0) & (moved >= 0) & (moved <= levels)
    price = np.where(useful, (1 - 2 * rest) / np.where(useful, gain, 1), np.inf)
    most = min(_MOVES, codes.shape[1])
    at = np.argpartition(price, most - 1, axis=1)[:, :most]
    at = np.take_along_axis(at, np.argsort(np.take_along_axis(price, at, 1), axis=1), 1)
    gains = np.where(np.take_along_axis(useful, at, 1), np.take_along_axis(gain, at, 1), 0)
    # As long as half of the next step still brings it nearer.
    move = (gains > 0) & (np.cumsum(gains, axis=1) - gains / 2 < np.abs(wanted)[:, None])
    chosen = np.where(move, np.take_along_axis(moved, at, 1), np.take_along_axis(codes, at, 1))
    np.put_along_axis(codes, at, chosen, 1)


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
