"""What was said before, and how much of it bears on the turn.

The turn is never concatenated with its history (measured: that hurts, docs/tuning.md). Instead it is encoded a
second time in the light of the last exchange, and only its own token vectors score (ZeCo², arXiv:2204.10613);
words of the conversation join BM25 at a fraction of a turn's own weight. No gate looks for a change of topic: turns
that resemble the conversation least ("and how much is it?") gain most from it, and a turn that opens a new topic
loses nothing by being read after the old one (both measured there). A turn of many words is complete by itself, and
context counts half for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lir_agents.types import ToolSignal, Turn

__all__ = ["Conversation", "conversation_of", "is_said"]

_QUESTIONS = 3
"""Earlier questions that lend words to BM25."""

_QUESTION_CHARS = 600
"""Characters of a question, from its beginning, that are used: a pasted log costs seconds and adds nothing."""

_ANSWER_CHARS = 600
"""Characters of the last answer, from its beginning, that lend words to BM25."""

_LIGHT_QUESTION_CHARS = 100
_LIGHT_ANSWER_CHARS = 100
"""Characters of the last question, from its end, and of the last answer, from its beginning, where it says what it
is about, that the turn is encoded in the light of. More ranks no better and takes longer."""


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
        last = [question[-_LIGHT_QUESTION_CHARS:] for question in self.questions[-1:]]
        last += [answer[:_LIGHT_ANSWER_CHARS] for answer in self.answers[-1:]]
        return " ".join(last)


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
    answers = [turn.text[:_ANSWER_CHARS] for turn in turns if turn.role != "user" and turn.text.strip()]
    said = [signal for signal in fresh if is_said(signal)]
    trust = 1.0
    if said:
        answers.append(str(said[-1].output)[:_ANSWER_CHARS])
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
