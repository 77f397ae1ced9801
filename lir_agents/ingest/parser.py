"""Parsing formats that can harm their reader (HTML, PDF) in a process that can be limited and ended.

Measured: 200,000 nested `<div>`s, or as many attributes of one tag, keep the HTML parser busy for more than a
minute inside one C call that no thread can interrupt, and a page of a PDF can hold any amount of work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal

from lir_agents.config import IngestSettings
from lir_agents.errors import InputError

__all__ = ["Parser"]

_HTML_S_PER_MB: Final = 3.0
"""Six times what a page of nothing but small table cells takes on one processor. HTML cannot be packed: what takes
longer was made to take long."""
_AT_LEAST_S: Final = 5.0
"""For any file: a process that starts on a busy machine."""


class Parser:
    """A worker process, started when first needed, started again when a file ended it.

    Use as a context manager, from one thread at a time.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._worker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, path: Path, format: Literal["html", "pdf"]) -> tuple[str, str]:
        """Title and text of a file.

        Raises:
            InputError: The file cannot be read as this format within the limits; the message says which.
        """
        worker = self._worker = self._worker or self._start()
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            worker.kill()

        limit_s = self._limit_s(path, format)
        timer = threading.Timer(limit_s, give_up)
        timer.start()
        try:
            answer = self._ask(worker, path, format)
        finally:
            timer.cancel()
        if answer is None or timed_out.is_set():  # killed, perhaps just after it had answered
            code = self.close()
        if answer is None:
            reason = f"took more than {limit_s:.3g} s" if timed_out.is_set() else _ended(code)
            raise InputError(
                reason,
                field="file",
                remedy="If the file is sound, raise ingest.parse_timeout_s or parse_memory_bytes.",
            )
        if "error" in answer:
            raise InputError(answer["error"].removeprefix("file: "), field="file")
        return answer["title"], answer["text"]

    def close(self) -> int | None:
        """Ends the process, if there is one, and returns its exit status."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        worker.kill()
        for pipe in (worker.stdin, worker.stdout):
            _close(pipe)
        return worker.wait()

    def _limit_s(self, path: Path, format: str) -> float:
        """Seconds that a file may take: HTML by its size, beside a part of the setting, which bounds it as well."""
        most = self._settings.parse_timeout_s
        if format != "html":
            return most
        size_bytes = path.stat().st_size if path.exists() else 0  # what cannot be read is for the worker to say
        return min(most, _AT_LEAST_S + most / 20 + _HTML_S_PER_MB * size_bytes / 1e6)

    def _ask(self, worker: subprocess.Popen[str], path: Path, format: str) -> dict[str, Any] | None:
        """The worker's answer; None when it ended instead."""
        request = {
            "path": os.fsencode(path.absolute()).hex(),
            "format": format,
            "max_bytes": self._settings.max_file_bytes,
            "max_chars": self._settings.max_document_chars,
        }
        if worker.stdin is None or worker.stdout is None:
            return None
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            return None
        if not line.endswith("\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
            [sys.executable, "-P", "-m", "lir_agents.ingest.parse_worker", str(self._settings.parse_memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            encoding="ascii",
        )


def _close(pipe: IO[str] | None) -> None:
    if pipe is None:
        return
    try:
        pipe.close()
    except BrokenPipeError:  # a request that the dead process never read
        return


def _ended(code: int | None) -> str:
    cause = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
    return f"ended the parser ({cause}): it is damaged, or needs more memory than ingest.parse_memory_bytes allows"
