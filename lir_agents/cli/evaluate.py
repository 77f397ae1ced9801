"""`lir eval`: index a dataset's corpus, ask its queries to several systems, print and write what came out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    with _directory(index_dir) as directory:
        experiment = _measure(plan, systems, dataset, directory)
    if json_file == "-":
        console.emit_json(experiment.to_json())
        return console.DONE
    _print_table(experiment, BASELINES)
    if json_file is not None:
        _write(Path(json_file), experiment)
    return console.DONE


def _print_table(experiment: Experiment, baselines: tuple[str, ...]) -> None:
    from lir_agents.cli.scoreboard import WIDTH, scoreboard

    screen = console.out()
    if not screen.is_terminal:  # a file or a pipe is as wide as it needs to be
        screen.width = max(screen.width, WIDTH)
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
    """Adds the corpus unless the index already holds as many documents as the corpus has texts."""
    with_text = sum(1 for document in dataset.documents() if document.text.strip())
    if index.stats()["documents"] >= with_text:
        return
    with console.progress("indexing", unit="documents", total=with_text) as advance:
        report = index.add(dataset.documents(), progress=console.committed(advance))
    if report.failed:
        first = report.failed[0]
        note = f"note: {len(report.failed)} documents were left out; {first.id}: {first.reason}"
        console.err().print(Text(console.printable(note), style="yellow"))


def _write(path: Path, experiment: Experiment) -> None:
    from lir_agents.errors import InputError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(experiment.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror})", field="json", remedy="Name another file."
        ) from error
