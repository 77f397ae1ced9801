"""`lir eval`: index a dataset's corpus, ask its queries to several systems, print and write what came out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EISDIR
from os import strerror
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from lir_agents.cli import console
from lir_agents.cli.options import names

if TYPE_CHECKING:
    from lir_agents.engine import LateInteractionIndex
    from lir_agents.evaluation import Dataset, EvalQuery, Experiment
    from lir_agents.types import Principal

__all__ = ["Plan", "run"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: the flags of `lir eval`."""

    dataset: Path
    split: str | None = None
    systems: str = "lir"
    memory: bool = True
    tools: bool = True
    access: bool = True
    limit: int | None = None


def run(plan: Plan, index_dir: Path | None, *, json_file: str | None) -> int:
    """Carries out a plan. `json_file` of "-" puts the JSON on standard output and the table nowhere."""
    from lir_agents.evaluation import BASELINES, Dataset, check_systems

    systems = check_systems(names(plan.systems))
    dataset = Dataset.load(plan.dataset, plan.split).limit(plan.limit)
    for note in dataset.notes:
        console.err().print(Text(f"note: {note}", style="yellow"))
    file = None if json_file in (None, "-") else Path(json_file)
    if file is not None:
        _check_writable(file)
    with _directory(index_dir) as directory:
        experiment = _measure(plan, systems, dataset, directory)
    if json_file == "-":
        console.emit_json(experiment.to_json())
        return console.DONE
    _print_table(experiment, BASELINES)
    if file is not None:
        _write(file, experiment)
    return console.DONE


def _print_table(experiment: Experiment, baselines: tuple[str, ...]) -> None:
    from lir_agents.cli.scoreboard import WIDTH, scoreboard

    screen = console.out(width=WIDTH)
    screen.print(scoreboard(experiment, baselines, width=screen.width))


@contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="lir-eval-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary) / "index"


def _measure(plan: Plan, systems: list[str], dataset: Dataset, directory: Path) -> Experiment:
    from lir_agents.engine import LateInteractionIndex
    from lir_agents.evaluation import Situation, bind_systems, evaluate

    with LateInteractionIndex.open(
        directory, access="acl" if dataset.governed else "open", bindings=dataset.bindings
    ) as index:
        _fill(index, dataset)
        situation = Situation(memory=plan.memory, tools=plan.tools, principal=_asker(dataset, plan.access))
        total = len(systems) * len(dataset.queries)
        with console.progress("asking", unit="queries", total=total) as advance:
            return evaluate(
                dataset,
                bind_systems(index, systems, situation=situation),
                passages=index.stats()["live_passages"],
                switches=_switches(plan),
                advance=lambda _: advance(1),
            )


def _asker(dataset: Dataset, access: bool) -> Callable[[EvalQuery], Principal | None]:
    """Who asks a query; with access off, somebody who holds every grant that any document names."""
    from lir_agents.types import Principal

    if access or not dataset.governed:
        return lambda query: query.principal
    everybody = Principal("lir eval", groups=sorted(frozenset().union(*dataset.acls.values())))
    return lambda query: everybody


def _switches(plan: Plan) -> dict[str, str]:
    return {name: "on" if getattr(plan, name) else "off" for name in ("memory", "tools", "access")}


def _fill(index: LateInteractionIndex, dataset: Dataset) -> None:
    """Brings the index to the corpus as it is now; what is unchanged is not encoded again.

    Raises:
        InputError: It holds something else than the corpus, which would be measured along with it.
    """
    with_text = {document.id for document in dataset.documents() if document.text.strip()}
    held = _held(index)
    _refuse_others(index, held - with_text, "which have no text in the corpus")  # before anything is mixed into it
    with console.progress("indexing", unit="documents", total=len(with_text)) as advance:
        report = index.add(dataset.documents(), progress=console.committed(advance))
    if report.failed:
        first = report.failed[0]
        note = f"note: {len(report.failed)} documents were left out; {first.id}: {first.reason}"
        console.err().print(Text(console.printable(note), style="yellow"))
    left = held & {failure.id for failure in report.failed}
    _refuse_others(index, left, "which the corpus has in another version that could not be added")


def _held(index: LateInteractionIndex) -> set[str]:
    """Ids of what is current in the index, whoever may read it."""
    held: set[str] = set()
    for change in index.rooms.catalog.changes(0):
        (held.discard if change.kind == "retired" else held.add)(change.document_id)
    return held


def _refuse_others(index: LateInteractionIndex, ids: set[str], what: str) -> None:
    from lir_agents.errors import InputError

    if ids:
        raise InputError(
            f"{index.path} holds {console.counted(len(ids), 'document')} {what}, e.g. {min(ids)}",
            field="index",
            remedy="Name another directory, or leave --index out for a temporary one.",
        )


def _check_writable(path: Path) -> None:
    """Says what is wrong with a file's place before an evaluation that may take hours, not after it."""
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        if path.exists() and not path.is_file():
            return  # a pipe: whoever reads it would see it end
        was_there = path.exists()
        path.open("ab").close()
        if not was_there:
            path.unlink()


def _write(path: Path, experiment: Experiment) -> None:
    with _refusals(path):
        path.write_text(json.dumps(experiment.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    from lir_agents.errors import InputError

    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror})", field="json", remedy="Name another file."
        ) from error
