"""Lines of JSON from the logger `lir_agents`, each with the trace and the span it was written in."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

__all__ = ["JsonFormatter", "write_json"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, trace_id, span_id, and what `extra={"lir": …}` holds.

    Args:
        content: Whether what was put into a message is written, and what an exception said. Without, a message
            stands as it is in the source ("It failed: %s"), and an exception is told by its class.
    """

    def __init__(self, *, content: bool = False) -> None:
        super().__init__()
        self._content = content

    def format(self, record: logging.LogRecord) -> str:
        plain = self._content or not record.args
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if plain else str(record.msg),
            **_here(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info) if self._content else record.exc_info[0].__name__
        line |= getattr(record, "lir", {})
        return json.dumps(line, ensure_ascii=False, default=str)


def write_json(*, content: bool, level: int = logging.INFO) -> Callable[[], None]:
    """Makes the logger `lir_agents` write lines of JSON to standard error; what is returned ends that."""
    logger, handler = logging.getLogger("lir_agents"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(content=content))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)

    def undo() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return undo


def _here() -> dict[str, str]:
    """The ids of the span that is current, in hex; nothing where there is none."""
    from opentelemetry import trace

    here = trace.get_current_span().get_span_context()
    if not here.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(here.trace_id), "span_id": trace.format_span_id(here.span_id)}
