"""Whether two forward passes rank alike, and which is faster: tried on a few texts before one is trusted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lir_agents.encoding.inputs import Input, InputBuilder
from lir_agents.encoding.model import Forward
from lir_agents.encoding.vectors import unit

__all__ = ["Probe", "disagreement"]

_LEAST_COSINE = 0.999
_CLEAR = 0.01
"""Two passages whose scores differ by less than this part have no order that rounding could spoil."""
_ROUNDS = 7

_QUESTIONS = (
    "How many days of paid leave do I have?",
    "Where can I park my bicycle, and is the garage open at the weekend?",
    "error 0x80070005 when mounting /dev/sdb1",
    "¿Cuándo abre la cantina?",
    "leave",
)
_PASSAGES = (
    "Everybody has thirty days of paid leave a year, and five more when a child falls ill.",
    "Bicycles are parked behind the house; the garage is open from Monday to Saturday, six to ten.",
    "Mounting fails with 0x80070005 where the caller has no rights to the device: run it as administrator.",
    "La cantina abre a mediodía; se sirve sopa y ensalada hasta que se acaban.",
    "",
    "Invoices are paid within fourteen days.",
    # Never the same twice: whoever looks at fewer neighbours than the model does, or at more, is found out.
    " ".join(f"Article {i} of the treaty of {1648 + 7 * i} names {i * i} towns." for i in range(60)),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """Texts as a model reads them: questions, and passages of very different lengths."""

    questions: Sequence[Input]
    passages: Sequence[Input]

    @classmethod
    def of(cls, builder: InputBuilder) -> Probe:
        return cls(builder.documents(_QUESTIONS), builder.documents(_PASSAGES))

    def race(self, runners: dict[str, Forward]) -> dict[str, float]:
        """Milliseconds that one question takes by each, medians of turns taken after one another."""
        rows = [one.ids for one in self.questions]
        times: dict[str, list[float]] = {name: [] for name in runners}
        for i in range(_ROUNDS + 2):
            for name, forward in runners.items():
                start = time.perf_counter()
                forward([rows[i % len(rows)]])
                if i >= 2:  # the first ones compile and allocate
                    times[name].append((time.perf_counter() - start) * 1e3)
        return {name: round(median(taken), 3) for name, taken in times.items()}


def disagreement(probe: Probe, exact: Forward, fast: Forward) -> str | None:
    """Why `fast` cannot stand in for `exact`, or None where token vectors and order of passages agree.

    Rows go in one ragged batch, and one by one: a graph may be right for one shape and wrong for another.
    """
    both = [*probe.questions, *probe.passages]
    wanted = _tokens(both, exact)
    for name, found in (("a batch", _tokens(both, fast)), ("single texts", _one_by_one(both, fast))):
        cosines = np.concatenate([(one * other).sum(axis=1) for one, other in zip(wanted, found, strict=True)])
        if not float(cosines.mean()) >= _LEAST_COSINE:  # NaN is no agreement
            return f"token vectors of {name} differ: mean cosine {float(cosines.mean()):.5f}"
        count = len(probe.questions)
        if _reordered(_maxsim(wanted[:count], wanted[count:]), _maxsim(found[:count], found[count:])):
            return f"it orders the passages of a probe differently in {name}"
    return None


def _tokens(inputs: Sequence[Input], forward: Forward) -> list[NDArray[np.float32]]:
    hidden = forward([one.ids for one in inputs]).hidden
    return [unit(hidden[i, : len(one.ids)]) for i, one in enumerate(inputs)]


def _one_by_one(inputs: Sequence[Input], forward: Forward) -> list[NDArray[np.float32]]:
    return [_tokens([one], forward)[0] for one in inputs]


def _maxsim(
    questions: Sequence[NDArray[np.float32]], passages: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Mean over a question's tokens of the best cosine in each passage, float32 [questions, passages]."""
    return np.array([[(q @ p.T).max(axis=1).mean() for p in passages] for q in questions], np.float32)


def _reordered(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
    """Whether a pair of passages that is clearly in one order in `wanted` is in the other in `found`."""
    before = wanted[:, :, None] - wanted[:, None, :]
    after = found[:, :, None] - found[:, None, :]
    return bool(((before > _CLEAR * np.abs(wanted[:, :, None])) & (after <= 0)).any())
