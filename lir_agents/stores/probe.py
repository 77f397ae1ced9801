"""Looking into a store that may be damaged, in a process that may die of it.

LMDB and Chroma are C++ and Rust over mapped files: a damaged page can end the process that reads it. So somebody
else reads: `probe` starts a process for one store, and a process that dies is an answer, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.codes import TokenCodec

__all__ = ["Probe", "probe"]

Kind: TypeAlias = Literal["tokens", "lexical", "vectors"]
_Arrays: TypeAlias = dict[str, NDArray[Any]]

_PATIENCE_S: Final = 120.0
_SAMPLE: Final = 64
_ALIKE: Final = 0.999
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Probe:
    """What a store says of itself.

    Attributes:
        error: Why it cannot be read; empty where it can.
        arrays: `rows` (int64, sorted) and `damaged` (int64, rows whose entry is not whole) of every store; of the
            tokens `data` (codes) and `offsets` of the sample asked for; of the words `contents` (uint64 by row);
            of the vectors `access_classes` (int64, one a row).
    """

    error: str = ""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def rows(self) -> Rows:
        return self.arrays.get("rows", np.empty(0, np.int64))

    @property
    def damaged(self) -> Rows:
        return self.arrays.get("damaged", np.empty(0, np.int64))


def probe(kind: Kind, asked: Mapping[str, Any], *, rows: int) -> Probe:
    """Reads all of a store in a process of its own.

    Args:
        kind: Which store.
        asked: JSON data: `path`, and as the store needs `token_dim`, `token_bits`, `dense_dim`, `sample`, `tokens`.
        rows: How many it should hold; it gets time in proportion.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="lir-probe-") as folder:
        target = Path(folder) / "found.npz"
        try:
            done = subprocess.run(  # noqa: S603 - our own module, in our own interpreter
                [sys.executable, "-P", "-m", "lir_agents.stores.probe", kind, str(target)],
                input=json.dumps(dict(asked)),
                capture_output=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                text=True,
                check=False,
                timeout=_PATIENCE_S + rows / 100,
            )
        except subprocess.TimeoutExpired:
            return Probe("reading it does not come to an end")
        if done.returncode < 0:
            return Probe(f"whoever reads it dies of signal {-done.returncode}")
        if done.returncode or not target.exists():
            lines = (done.stdout or done.stderr).strip().splitlines()
            return Probe(lines[-1] if lines else f"reading it failed with status {done.returncode}")
        with np.load(target) as found:
            return Probe(arrays={name: found[name] for name in found.files})


# ---------------------------------------------------------------- in the other process


def _tokens(asked: Mapping[str, Any]) -> _Arrays:
    from lir_agents.stores.tokens import LmdbTokens

    with closing(LmdbTokens.open(Path(asked["path"]), _codec(asked), asked["dense_dim"])) as store:
        damaged = np.array(store.verify(), np.int64)
        rows = store.rows()
        sample = np.setdiff1d(np.intersect1d(np.array(asked["sample"], np.int64), rows), damaged)
        packed = store.gather(sample)
    sampled = {"sample": sample, "data": packed.data, "offsets": packed.offsets}
    return {"rows": rows, "damaged": damaged, **sampled}


def _codec(asked: Mapping[str, Any]) -> TokenCodec:
    return TokenCodec(asked["token_dim"], asked["token_bits"])


def _lexical(asked: Mapping[str, Any]) -> _Arrays:
    from lir_agents.stores.lexical import LmdbLexical

    with closing(LmdbLexical.open(Path(asked["path"]))) as store:
        damaged = np.array(store.verify(), np.int64)
        contents = np.empty(0, np.uint64) if len(damaged) else store.contents()
        return {"rows": store.rows(), "damaged": damaged, "contents": contents}


def _vectors(asked: Mapping[str, Any]) -> _Arrays:
    from lir_agents.errors import IntegrityError
    from lir_agents.stores.chroma import ChromaCollection
    from lir_agents.stores.database import file_problems
    from lir_agents.stores.hnsw_file import damage

    path = Path(asked["path"])
    for home in path.iterdir():
        problems = file_problems(home / "chroma.sqlite3") if home.name.isdecimal() else []
        if problem := next(iter(problems), damage(home)):
            raise IntegrityError(problem)
    with closing(ChromaCollection.embedded(path, asked["dense_dim"])) as store:
        rows = np.flatnonzero(store.held()).astype(np.int64)
        wrong = [*_differing(store, rows, asked), *_lost(store, rows)]
        return {
            "rows": rows,
            "damaged": np.unique(np.array(wrong, np.int64)),
            "access_classes": store.access_classes(rows),
        }


def _differing(store: Any, rows: Rows, asked: Mapping[str, Any]) -> list[int]:
    """Rows whose vector is not that of the token store, where that one is sound."""
    from lir_agents.stores.tokens import LmdbTokens

    if asked["tokens"] is None:
        return []
    wrong: list[int] = []
    with closing(LmdbTokens.open(Path(asked["tokens"]), _codec(asked), asked["dense_dim"])) as tokens:
        known = np.setdiff1d(rows, np.setdiff1d(rows, tokens.rows()))
        for start in range(0, len(known), _CHUNK):
            part = known[start : start + _CHUNK]
            cosines = np.einsum("ij,ij->i", store.vectors(part), tokens.pooled(part))
            wrong += part[~(cosines >= _ALIKE)].tolist()
    return wrong


def _lost(store: Any, rows: Rows) -> list[int]:
    """Rows of a sample that a search for their own vector does not find."""
    lost: list[int] = []
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    for row, vector in zip(sample.tolist(), store.vectors(sample), strict=True):
        (found,) = store.nearest([vector], min(10, len(rows)))
        if not (store.vectors(found) @ vector >= _ALIKE).any():
            lost.append(row)
    return lost


_PROBES: Final[Mapping[str, Callable[[Mapping[str, Any]], _Arrays]]] = {
    "tokens": _tokens,
    "lexical": _lexical,
    "vectors": _vectors,
}


def main(kind: str, target: str) -> int:
    """Answers one question on standard input; 1 where the store cannot be read, its reason on standard output."""
    try:
        found = _PROBES[kind](json.load(sys.stdin))
    except BaseException as error:  # noqa: BLE001 - Rust panics are no Exception
        problem = getattr(error, "problem", str(error))  # the remedy is whoever asks' to say
        sys.stdout.write(" ".join(problem.split()) or type(error).__name__)
        return 1
    with Path(target).open("wb") as file:
        np.savez(file, allow_pickle=False, **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
