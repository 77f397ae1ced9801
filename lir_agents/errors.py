"""Every error this package raises on purpose.

::

    LirError
    ├── ConfigError                a setting is missing, unknown or out of range
    ├── InputError(ValueError)     a bad query, document or filter: which field, and what would be right
    ├── AccessDenied               the policy refused the request; carries the decision
    ├── BudgetExceeded             nothing that could be returned in time was both authorised and recorded
    ├── Overloaded                 the pool of workers is full; refused at once, nothing was started
    ├── StoreError                 a store failed: which one, in which operation, whether a retry helps
    │   └── IndexLocked            another process owns the index directory
    ├── IntegrityError             a broken chain, a foreign encoder, a damaged or foreign directory
    └── MissingExtra(ImportError)  an optional dependency is not installed; carries the exact pip line

A refused *request* raises. A refused *passage* is absent without a word, so that nothing tells it exists.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDenied",
    "BudgetExceeded",
    "ConfigError",
    "IndexLocked",
    "InputError",
    "IntegrityError",
    "LirError",
    "MissingExtra",
    "Overloaded",
    "StoreError",
]


class LirError(Exception):
    """Base of every error raised by lir-agents.

    Args:
        message: What went wrong, in one sentence.
        remedy: What the reader can do about it; appended to the message.

    Attributes:
        problem: The message without the remedy.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.problem, self.remedy = message, remedy
        stop = "" if not remedy or message.endswith((".", "!", "?")) else "."
        super().__init__(f"{message}{stop} {remedy}".strip())


class ConfigError(LirError):
    """A setting is missing, unknown or out of range. `setting` names it."""

    def __init__(self, message: str, *, setting: str = "", remedy: str = "") -> None:
        self.setting = setting
        super().__init__(message, remedy=remedy)


class InputError(LirError, ValueError):
    """A bad query, document or filter. `field` names what is wrong."""

    def __init__(self, message: str, *, field: str, remedy: str = "") -> None:
        self.field = field
        super().__init__(f"{field}: {message}", remedy=remedy)


class AccessDenied(LirError):
    """The policy refused the request. `decision` is the record of why."""

    def __init__(self, message: str, *, decision: Any = None, remedy: str = "") -> None:
        self.decision = decision
        super().__init__(message, remedy=remedy)


class BudgetExceeded(LirError):
    """No answer that is both authorised and recorded was ready in time. `stage` says where time ran out."""

    def __init__(self, message: str, *, stage: str, budget_ms: float, remedy: str = "") -> None:
        self.stage = stage
        self.budget_ms = budget_ms
        super().__init__(message, remedy=remedy)


class Overloaded(LirError):
    """Every worker is busy. Refused at once; `retry_after_s` is a hint, in seconds."""

    def __init__(self, message: str, *, retry_after_s: float, remedy: str = "") -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, remedy=remedy)


class StoreError(LirError):
    """A store failed.

    Args:
        message: What went wrong.
        store: Which store: "catalog", "vectors", "tokens", "lexical", "memory" or "audit".
        operation: What was being done, as a verb.
        retryable: Whether the same call may succeed later without anybody's help.
        remedy: What the reader can do about it.
    """

    def __init__(
        self, message: str, *, store: str, operation: str, retryable: bool = False, remedy: str = ""
    ) -> None:
        self.store = store
        self.operation = operation
        self.retryable = retryable
        super().__init__(f"{store}: {operation}: {message}", remedy=remedy)


class IndexLocked(StoreError):
    """Another process owns the index directory."""


class IntegrityError(LirError):
    """What is on disk is not what it claims to be: a broken chain, a foreign encoder, a damaged store."""


class MissingExtra(LirError, ImportError):
    """An optional dependency is not installed. `extra` names the extra that brings it."""

    def __init__(self, feature: str, *, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{feature} needs an optional dependency.", remedy=f"Run: pip install 'lir-agents[{extra}]'"
        )
