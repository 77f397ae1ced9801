"""Which library runs the forward pass: OpenVINO where it is the faster one and ranks alike, torch otherwise.

Asked once per machine, processor, model and version, and remembered in the cache folder beside the converted
model. A fingerprint does not depend on the answer: vectors of both agree more closely than the int8 store that
they end up in can tell (docs/decisions/0004-query-encoder.md).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, Literal, get_args

from lir_agents.encoding.cache import cache_folder, publish, recall
from lir_agents.encoding.checkpoint import Checkpoint
from lir_agents.encoding.fingerprint import combine, weights_sha256
from lir_agents.encoding.model import Forward, load_forward, load_plain, pad_id
from lir_agents.encoding.openvino_export import MODEL_FILE, convert, first_position, save
from lir_agents.encoding.openvino_forward import OpenVinoForward
from lir_agents.encoding.openvino_graphs import openvino, processor
from lir_agents.encoding.probe import Probe, disagreement
from lir_agents.encoding.runtime import Precision, choose_device, choose_dtype
from lir_agents.errors import ConfigError
from lir_agents.threads import available_processors

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "BackendName", "Chosen", "choose_forward"]

BackendName = Literal["torch", "openvino"]
Backend = Literal["auto", "torch", "openvino"]

_SCHEME = 4
"""Raised when what is converted, or how it is tried, changes."""
_NOTE_AFTER_S = 2.0
_CHOOSING = Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What runs the forward pass, and why.

    Attributes:
        name: The library.
        reason: In words.
        steady: Whether the hidden states of a text are known to be the same, to the bit, whatever runs beside it.
    """

    name: BackendName
    reason: str
    steady: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def choose_forward(
    checkpoint: Checkpoint,
    probe: Callable[[], Probe],
    *,
    device: str | None,
    precision: Precision | None,
    backend: Backend = "auto",
    threads: int | None = None,
) -> tuple[Forward, Chosen]:
    """Loads a model in the library that runs it best here.

    Args:
        checkpoint: The model.
        probe: Gives the texts on which a conversion is tried; called only where one is.
        device: "cpu", "cuda", …; None: CUDA where there is one.
        precision: "float32" or "bfloat16"; None: bfloat16 where the device computes in it natively.
        backend: "auto", or the one to use.
        threads: Most threads of one run in OpenVINO; None: the processors that this process may use.

    Raises:
        InputError: The checkpoint cannot be loaded.
        ConfigError: The backend, device or precision asked for is not to be had.
    """
    if backend not in get_args(Backend):
        raise ConfigError(
            f"backend is {backend!r}", setting="encoder.backend", remedy='Use "auto", "torch" or "openvino".'
        )
    target = choose_device(device)
    against = "asked for" if backend == "torch" else _hindrance(checkpoint, target)
    if against is None:
        with _CHOOSING:
            forward, chosen = _Choice(checkpoint, target, precision, threads).run(
                probe, forced=backend == "openvino"
            )
        if forward is not None:
            return forward, chosen
        against = chosen.reason
    if backend == "openvino":
        raise ConfigError(
            f"{checkpoint.folder.name} does not run in OpenVINO: {against}",
            setting="encoder.backend",
            remedy='Use "auto" or "torch", or: pip install "lir-agents[openvino]".',
        )
    return load_forward(checkpoint, device=device, precision=precision), Chosen("torch", against)


def _hindrance(checkpoint: Checkpoint, target: torch.device) -> str | None:
    """Why OpenVINO is out of the question, before anything is loaded; None where it is not."""
    if target.type != "cpu":
        return f"the model runs on {target.type}"
    if checkpoint.pooling == "modules":
        return "the checkpoint has modules of its own"
    try:
        openvino()
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        return "openvino is not installed" if missing else f"openvino does not start here: {_short(error)}"
    return None


@dataclass(slots=True)
class _Choice:
    """One model on this machine's processor."""

    checkpoint: Checkpoint
    target: torch.device
    precision: Precision | None
    threads: int | None

    def run(self, probe: Callable[[], Probe], *, forced: bool) -> tuple[Forward | None, Chosen]:
        """OpenVINO's forward pass or None for torch, and why."""
        try:
            entry = cache_folder() / "encoders" / self._key()
        except (OSError, RuntimeError) as error:
            return None, Chosen("torch", f"openvino does not start here: {_short(error)}")
        record = recall(entry)
        if record is None:
            with _note(self.checkpoint.folder.name):
                record, model = self._try(probe(), entry)
        else:
            model = entry / MODEL_FILE
        chosen = Chosen(record["name"], record["reason"], record.get("steady", False))
        if model is None or (chosen.name == "torch" and not (forced and record["agrees"])):
            return None, replace(chosen, steady=False)
        try:
            return self._openvino(model, record["first_position"], shared=record["shared"]), chosen
        except RuntimeError as error:
            return None, Chosen("torch", f"openvino cannot read its model: {_short(error)}")

    def _try(self, probe: Probe, entry: Path) -> tuple[dict[str, Any], Any]:
        """Converts the model, compares it with torch, and keeps what was found; the model as well, if it agrees."""
        model, as_torch = load_plain(self.checkpoint)
        exact = as_torch(_dtype("float32"))
        rows = [one.ids for one in (*probe.questions, *probe.passages)]
        converted: Any = None
        against: str | None = None
        for first in dict.fromkeys((first_position(model), None)):
            try:
                converted = convert(model, placed=first is not None)
                fast = self._openvino(converted, first)
                against = disagreement(probe, exact, fast)
                shared = against is None and fast.shareable(rows)
                steady = shared and fast.steady(rows)
            except Exception as error:  # noqa: BLE001  of an architecture it does not know, a converter says so in many ways
                against = f"openvino cannot convert it: {_short(error)}"
            if against is None and (shared or first is None):
                break
        if against is not None:
            record = {"name": "torch", "reason": against, "agrees": False}
            return self._keep(entry, record, lambda _: None), None
        taken = probe.race({"torch": as_torch(choose_dtype(self.target, self.precision)), "openvino": fast})
        name: BackendName = "openvino" if taken["openvino"] <= taken["torch"] else "torch"
        reason = f"a question takes {taken['openvino']:.1f} ms in openvino, {taken['torch']:.1f} ms in torch"
        record = {"name": name, "reason": reason, "agrees": True, "steady": steady, "shared": shared}
        record["first_position"] = first
        return self._keep(entry, record, partial(save, converted)), converted

    def _keep(self, entry: Path, record: dict[str, Any], write: Callable[[Path], None]) -> dict[str, Any]:
        try:
            publish(entry, record, write)
        except (OSError, RuntimeError) as error:  # OpenVINO says so in a RuntimeError when a disk is full
            _log.warning("The converted encoder is not kept, and made again by the next process: %s", error)
        return record

    def _openvino(self, model: Any, first: int | None, *, shared: bool = False) -> OpenVinoForward:
        return OpenVinoForward(
            model,
            bfloat16=self._bfloat16,
            hidden_dim=self.checkpoint.hidden_dim,
            max_tokens=self.checkpoint.max_tokens,
            pad_id=pad_id(self.checkpoint),
            threads=self.threads,
            first_position=first,
            shared=shared,
        )

    @property
    def _bfloat16(self) -> bool:
        return choose_dtype(self.target, self.precision) == _dtype("bfloat16")

    def _key(self) -> str:
        """Everything that the model, its agreement with torch, or the race depends on."""
        return combine(
            {
                "choice": _SCHEME,
                "weights": weights_sha256(self.checkpoint.folder),
                "settings": self.checkpoint.meaning,
                "bfloat16": self._bfloat16,
                "versions": {name: version(name) for name in ("openvino", "torch", "transformers")},
                "processor": processor(),
                "threads": self.threads or available_processors(),
            }
        )[:32]


def _dtype(name: Precision) -> torch.dtype:
    import torch

    return torch.float32 if name == "float32" else torch.bfloat16


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['without a word'])[-1][:200]}"


@contextmanager
def _note(name: str) -> Iterator[None]:
    """Says on a terminal what takes so long, if it does."""

    def say() -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"Preparing {name} for this machine; only this once …\n")

    _log.info("Preparing %s for this machine", name)
    timer = Timer(_NOTE_AFTER_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
