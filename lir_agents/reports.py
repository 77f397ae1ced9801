"""What came of adding documents."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AddReport", "Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One document or file that could not be added, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AddReport:
    """What became of the documents handed to `add`: counts, and every failure with its reason."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: tuple[Failure, ...] = ()
    passages: int = 0

    @property
    def ok(self) -> bool:
        return not self.failed
