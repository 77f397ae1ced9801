"""Encoding in torch and in OpenVINO, interleaved in one process: `python -m benchmarks.encoder_backends`.

Wall and processor time of one question, of a turn together with the same turn in its context, and of passages;
on one thread and on two. Lengths differ from call to call, as they do in use: a library that prepares itself for
each new length is charged for it. Prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from lir_agents.config import EncoderSettings
from lir_agents.encoding.base import QueryText
from lir_agents.encoding.open import open_encoder
from lir_agents.encoding.transformer import TransformerEncoder

_WORDS = (
    "days",
    "of",
    "paid",
    "leave",
    "that",
    "people",
    "have",
    "when",
    "a",
    "child",
    "falls",
    "ill",
    "at",
    "home",
)
_ROUNDS = 40
_THREADS = (1, 2)


def text(rng: np.random.Generator, tokens: int) -> str:
    """About so many tokens: every word is one."""
    return " ".join(rng.choice(_WORDS, tokens))


def encoder(backend: str, threads: int) -> TransformerEncoder:
    opened = open_encoder(settings=EncoderSettings(backend=backend, threads=threads))
    assert isinstance(opened, TransformerEncoder)
    return opened


def encode_documents(one: TransformerEncoder, texts: list[str]) -> None:
    for _ in one.encode_documents(texts):
        pass


def tasks(rng: np.random.Generator) -> dict[str, Callable[[TransformerEncoder], object]]:
    """One round's work, the same for every encoder."""
    question = QueryText(text(rng, int(rng.integers(12, 21))))
    context = QueryText(question.text, text(rng, int(rng.integers(100, 300))))
    passages = [text(rng, int(n)) for n in rng.integers(180, 219, 18)]
    return {
        "question": lambda one: one.encode_queries([question]),
        "question and context": lambda one: one.encode_queries([question, context]),
        "18 passages": partial(encode_documents, texts=passages),
    }


def main() -> None:
    rng = np.random.default_rng(0)
    encoders = {(name, n): encoder(name, n) for n in _THREADS for name in ("torch", "openvino")}
    taken: dict[str, list[tuple[float, float]]] = {}
    with TemporaryDirectory() as folder:
        os.environ.setdefault("LIR_CACHE_DIR", str(Path(folder)))
        for i in range(_ROUNDS + 3):
            for work, run in tasks(rng).items():
                if work == "18 passages" and i % 4:
                    continue
                for (name, threads), one in encoders.items():
                    torch.set_num_threads(threads)
                    start, used = time.perf_counter(), time.process_time()
                    run(one)
                    both = (time.perf_counter() - start) * 1e3, (time.process_time() - used) * 1e3
                    if i >= 3:
                        taken.setdefault(f"{work}, {name}, {threads} threads", []).append(both)
    rows = {
        name: {
            "wall_ms": round(median(wall for wall, _ in both), 2),
            "cpu_ms": round(median(cpu for _, cpu in both), 2),
            "wall_p90_ms": round(float(np.quantile([wall for wall, _ in both], 0.9)), 2),
        }
        for name, both in sorted(taken.items())
    }
    load, policy = os.getloadavg()[0], os.environ.get("OMP_WAIT_POLICY", "not set")
    chosen = str(encoders["openvino", 1].backend)
    sys.stdout.write(
        json.dumps({"load": load, "OMP_WAIT_POLICY": policy, "choice": chosen, **rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
