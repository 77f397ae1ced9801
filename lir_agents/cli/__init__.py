"""The `lir` command. Nothing heavy is imported before a command needs it: help answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `lir`; always ends in SystemExit: 0 done, 1 failed, 2 wrong usage, 3 refused by policy.

    An error that this package raises on purpose, or the system does (a full disk), becomes one line on standard
    error. Set LIR_DEBUG=1 to see where it came from.
    """
    # Before torch is loaded: this process is ours, so its threads may wait asleep. Spinning, they burn the cores
    # that they wait for where other processes want them too; a library leaves that to its host.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from lir_agents.cli.app import app
    from lir_agents.cli.streams import accept_everything
    from lir_agents.errors import LirError

    accept_everything()
    try:
        try:
            app(args=None if argv is None else list(argv), prog_name="lir")
        finally:
            if sys.stdout is not None:  # None where standard output is closed
                sys.stdout.flush()  # what cannot be written is told here, not by the interpreter at its end
    except LirError as error:
        if os.environ.get("LIR_DEBUG") == "1":
            raise
        from lir_agents.cli.console import report_error

        raise SystemExit(report_error(error)) from None
    except BrokenPipeError:  # whoever read our output has seen enough, as in `lir search … | head -1`
        _write_nothing_more()
        raise SystemExit(1) from None
    except OSError as error:  # a full disk behind our output
        if os.environ.get("LIR_DEBUG") == "1":
            raise
        from lir_agents.cli.console import report_failure

        _write_nothing_more()
        raise SystemExit(report_failure(error)) from None


def _write_nothing_more() -> None:
    """Lets the interpreter end without another try at what standard output still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
