"""Whether an index redacts, and how: fixed when it is made, because what was stored once cannot be redacted."""

from __future__ import annotations

import json
from typing import Final, Literal

from lir_agents.errors import ConfigError, InputError
from lir_agents.ingest.redact import PatternRedactor
from lir_agents.ingest.redact_base import Redactor
from lir_agents.stores.catalog import Catalog

__all__ = ["agreed_redactor", "redactor_name"]

_META: Final = "redaction"
_OFF: Final = "off"
_PATTERNS: Final = "patterns"


def agreed_redactor(catalog: Catalog, given: Redactor | Literal[True] | None) -> Redactor | None:
    """The redactor of an index.

    Args:
        catalog: The index's; a new one has no generation yet, and is told what it is made with.
        given: True for the default recognisers, a redactor, or None: what the index was made with, or none.

    Raises:
        InputError: What is given is no redactor, or not the one the index was made with.
        ConfigError: The index was made with a redactor of one's own, which has to be passed again.
    """
    redactor = PatternRedactor() if given is True else given
    if redactor is not None and not callable(getattr(redactor, "redact", None)):
        raise InputError(f"is {given!r}", field="redactor", remedy="Pass True, a Redactor, or None.")
    recorded = catalog.get_meta(_META)
    if recorded is None:  # an index made before anybody could ask for redaction has none
        recorded = _OFF if catalog.generation() is not None else redactor_name(redactor)
        catalog.set_meta(_META, recorded)
    if redactor is None and recorded == _PATTERNS:
        return PatternRedactor()
    if redactor is None and recorded != _OFF:
        raise ConfigError(
            f"this index was created with the redactor {recorded}",
            setting="redactor",
            remedy="Pass that redactor as redactor=.",
        )
    if redactor_name(redactor) != recorded:
        raise InputError(
            f"is {redactor_name(redactor)!r}, and this index was created with {recorded!r}",
            field="redactor",
            remedy="Leave redactor out, or ingest into a new index: redaction is fixed when an index is made.",
        )
    return redactor


def redactor_name(redactor: Redactor | None) -> str:
    """What is written down of a redactor: its type and the kinds it finds."""
    if redactor is None:
        return _OFF
    kinds = list(getattr(redactor, "kinds", ()))
    if type(redactor) is PatternRedactor and kinds == list(PatternRedactor().kinds):
        return _PATTERNS
    return json.dumps([f"{type(redactor).__module__}.{type(redactor).__qualname__}", kinds])
