"""What was said before, and how much of it bears on the turn.

The turn is never concatenated with its history (measured: that hurts, docs/tuning.md). Instead it is encoded a
second time in the light of the last exchange, and only its own token vectors score (ZeCo², arXiv:2204.10613);
words of the conversation join BM25 at a fraction of a turn's own weight. A turn that resembles nothing said
before opens a new topic, and context counts in proportion to that resemblance.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lir_agents.types import ToolSignal, Turn

__all__ = ["Conversation", "PooledTexts", "conversation_of", "is_said"]

_QUESTIONS = 3
"""Earlier questions that lend words to BM25."""

_QUESTION_CHARS = 1200
"""Characters of a question, from its beginning, that are used: a pasted log costs seconds and adds nothing."""

_ANSWER_CHARS = 1200
"""Characters of the last answer, from its end, that lend words to BM25 and are compared with the turn."""

_CONTEXT_CHARS = 800
"""Characters of the last answer, from its end, that the turn is encoded in the light of."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The part of a conversation that is used.

    Attributes:
        questions: The last questions before this turn, oldest first.
        answers: The last two answers, of an agent or a tool, oldest first.
        trust: How far the last answer is to be trusted, in [0, 1]: a tool's confidence, 1 for an agent.
        signals: What tools answered, oldest first; remembered ones before those of this turn.
        fresh: How many of `signals`, from the end, belong to this turn.
    """

    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    trust: float = 1.0
    signals: tuple[ToolSignal, ...] = ()
    fresh: int = 0

    @property
    def light(self) -> str:
        """What the turn is encoded in the light of; empty when nothing was said."""
        last = [*self.questions[-1:], *(answer[-_CONTEXT_CHARS:] for answer in self.answers[-1:])]
        return " ".join(last)

    @property
    def anchors(self) -> tuple[str, ...]:
        """Texts that the turn is compared with."""
        return tuple(dict.fromkeys((*self.questions, *self.answers)))


def conversation_of(
    turns: Sequence[Turn], remembered: Sequence[ToolSignal], fresh: Sequence[ToolSignal]
) -> Conversation:
    """Selects what is used of a conversation.

    Args:
        turns: What people and agents said, oldest first.
        remembered: What tools answered in earlier turns, oldest first; what they said in words is among `turns`.
        fresh: What tools answered in this turn, oldest first.
    """
    questions = [turn.text[:_QUESTION_CHARS] for turn in turns if turn.role == "user" and turn.text.strip()]
    answers = [turn.text[-_ANSWER_CHARS:] for turn in turns if turn.role != "user" and turn.text.strip()]
    said = [signal for signal in fresh if is_said(signal)]
    trust = 1.0
    if said:
        answers.append(str(said[-1].output)[-_ANSWER_CHARS:])
        trust = said[-1].confidence
    told = [signal for signal in fresh if not signal.error]
    signals = _each_once([*(signal for signal in remembered if not signal.error), *told])
    return Conversation(
        questions=tuple(questions[-_QUESTIONS:]),
        answers=tuple(answers[-2:]),
        trust=trust,
        signals=signals,
        fresh=len(_each_once(told)),
    )


def is_said(signal: ToolSignal) -> bool:
    """Whether a tool's answer is text that counts: one that is more likely wrong than right is not listened to."""
    return (
        not signal.error
        and signal.confidence > 0.5
        and isinstance(signal.output, str)
        and bool(signal.output.strip())
    )


def _each_once(signals: Sequence[ToolSignal]) -> tuple[ToolSignal, ...]:
    """The same answer of the same tool is one piece of evidence however often it is told: the last time counts."""
    kept: list[ToolSignal] = []
    for signal in reversed(signals):
        if not any(signal.tool == other.tool and signal.output == other.output for other in kept):
            kept.append(signal)
    return tuple(reversed(kept))


class PooledTexts:
    """Pooled vectors of texts that were compared before, least recently used out first.

    Keyed by who asked as well as by the text: whether a text is known, and so how long it takes, must not tell
    one principal what another one said.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def key(owner: str, text: str) -> bytes:
        """One key per owner and text."""
        return hashlib.sha256(f"{owner}\x00{text}".encode("utf-8", "surrogatepass")).digest()

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The vector, float32 [dense_dim], or None."""
        with self._lock:
            vector = self._kept.get(key)
            if vector is not None:
                self._kept.move_to_end(key)
            return vector

    def put(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """Keeps a vector."""
        with self._lock:
            self._kept[key] = vector
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
