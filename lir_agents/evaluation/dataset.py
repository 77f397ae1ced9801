"""A dataset in the evaluation layout: documents, queries with their run-time situation, judgements, bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lir_agents.bindings import ToolBinding
from lir_agents.errors import InputError, LirError
from lir_agents.evaluation.layout import (
    Judgements,
    damaged,
    read_json,
    read_jsonl,
    read_qrels,
    split_names,
)
from lir_agents.types import Document, Filter, Principal, ToolSignal, Turn

__all__ = ["Dataset", "EvalQuery", "principal_of"]

_ROLES: Mapping[str, Literal["user", "assistant", "tool"]] = {
    "user": "user",
    "agent": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}


def principal_of(grants: Sequence[str]) -> Principal:
    """One principal out of a list of grants: its id is the first `user:` grant, else the first; the rest are
    its groups.

    Raises:
        InputError: The list is empty: nobody asks.
    """
    if not grants:
        raise InputError("is empty", field="principals", remedy="Name at least one grant.")
    name = next((grant for grant in grants if grant.startswith("user:")), grants[0])
    return Principal(name, groups=[grant for grant in grants if grant != name])


@dataclass(frozen=True, slots=True)
class EvalQuery:
    """A query and the situation it was asked in.

    Attributes:
        principals: Grants of who asks; None where the set has no access control.
        expect: "deny" where the answer lies in `forbidden_target` and must not come back.
        rewrite: A person's stand-alone wording; an upper reference, never an input of a system under test.
        metadata: Everything else that the dataset says of the query.
    """

    id: str
    text: str
    history: tuple[Turn, ...] = ()
    principals: tuple[str, ...] | None = None
    filter: Filter | None = None
    tool_signals: tuple[ToolSignal, ...] = ()
    expect: Literal["answer", "deny"] = "answer"
    forbidden_target: tuple[str, ...] = ()
    rewrite: str = ""
    metadata: Mapping[str, Any] | None = None

    @property
    def principal(self) -> Principal | None:
        """Who asks, as the index wants it; None where the set has no access control."""
        return None if self.principals is None else principal_of(self.principals)


def _turn(value: Mapping[str, Any]) -> Turn:
    speaker = value.get("speaker", value.get("role"))
    if speaker not in _ROLES:
        raise InputError(f"is {speaker!r}", field="history.speaker", remedy='Use "user" or "agent".')
    return Turn(_ROLES[speaker], value["text"], passage_ids=value.get("context_ids") or ())


def _signal(value: Mapping[str, Any]) -> ToolSignal:
    return ToolSignal(value["tool"], value["output"], confidence=float(value.get("confidence", 1.0)))


_KNOWN = {"history", "principals", "filter", "tool_outputs", "expect", "forbidden_target", "rewrite"}


def _query(value: Mapping[str, Any]) -> EvalQuery:
    text = value["text"]
    if not isinstance(text, str):
        raise InputError(f"is {type(text).__name__}", field="text", remedy="A query's text is a string.")
    meta: Mapping[str, Any] = value.get("metadata") or {}
    expect = meta.get("expect") or "answer"
    if expect not in ("answer", "deny"):
        raise InputError(f"is {expect!r}", field="expect", remedy='Use "answer" or "deny".')
    principals = meta.get("principals")
    query = EvalQuery(
        id=value["_id"],
        text=text,
        history=tuple(_turn(turn) for turn in meta.get("history") or ()),
        principals=None if principals is None else tuple(principals),
        filter=meta.get("filter") or None,
        tool_signals=tuple(_signal(output) for output in meta.get("tool_outputs") or ()),
        expect="deny" if expect == "deny" else "answer",
        forbidden_target=tuple(meta.get("forbidden_target") or ()),
        rewrite=meta.get("rewrite") or "",
        metadata={key: item for key, item in meta.items() if key not in _KNOWN},
    )
    _ = query.principal  # a set that names nobody is damaged: say so now, with the line
    return query


def _document(value: Mapping[str, Any]) -> Document:
    meta = {key: item for key, item in (value.get("metadata") or {}).items() if item is not None}
    readers = meta.pop("acl", None)
    return Document(
        value.get("text") or "",
        id=value["_id"],
        title=value.get("title") or "",
        source_uri=str(meta.get("url", "")),
        acl=readers,
        metadata=meta,
    )


def _parse(path: Path, build: Callable[[Mapping[str, Any]], Any]) -> Iterator[Any]:
    for number, value in read_jsonl(path):
        try:
            yield build(value)
        except (LirError, KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise damaged(path, number, what) from error


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of an evaluation collection.

    Attributes:
        queries: Those judged in this split, and those of the split that must be denied, in file order.
        qrels: Judgements of the split.
        acls: Readers by document id; empty where no query names principals. A document without an ACL in a
            set with access control is readable by nobody.
        bindings: How tool outputs speak of the documents.
        notes: Oddities that stop nothing but deserve a word.
    """

    path: Path
    name: str
    split: str
    queries: tuple[EvalQuery, ...]
    qrels: Judgements
    acls: Mapping[str, frozenset[str]]
    bindings: tuple[ToolBinding, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path | str, split: str | None = None) -> Dataset:
        """Reads queries and judgements; the corpus is streamed later, by `documents`.

        Args:
            path: A folder in the evaluation layout, or a plain BEIR folder.
            split: None takes "dev", or the only split there is.

        Raises:
            InputError: The folder is not in the layout, or a file is damaged; names the file and the line.
        """
        folder = Path(path)
        split = _choose_split(folder, split)
        about = read_json(folder / "dataset.json")
        qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
        queries, notes = _select(list(_parse(folder / "queries.jsonl", _query)), qrels, split)
        return cls(
            path=folder,
            name=str(about.get("name") or folder.resolve().name),
            split=split,
            queries=queries,
            qrels=qrels,
            acls=_read_acls(folder) if any(query.principals for query in queries) else {},
            bindings=_read_bindings(folder, about),
            notes=notes,
        )

    @property
    def governed(self) -> bool:
        """Whether queries name who asks."""
        return any(query.principals is not None for query in self.queries)

    def documents(self) -> Iterator[Document]:
        """Streams the corpus.

        Raises:
            InputError: A line of the corpus is damaged.
        """
        return _parse(self.path / "corpus.jsonl", _document)

    def limit(self, queries: int | None) -> Dataset:
        """The same dataset with its first `queries` queries (None: all); the corpus stays whole."""
        return self if queries is None else replace(self, queries=self.queries[:queries])


def _choose_split(folder: Path, split: str | None) -> str:
    names = split_names(folder)
    if split in names:
        return split
    if split is None and ("dev" in names or len(names) == 1):
        return "dev" if "dev" in names else names[0]
    what = "no split was named" if split is None else f"there is no split {split!r}"
    raise InputError(what, field="split", remedy=f"This dataset has: {', '.join(names)}.")


def _select(
    queries: list[EvalQuery], qrels: Judgements, split: str
) -> tuple[tuple[EvalQuery, ...], tuple[str, ...]]:
    """The queries of a split: judged ones, and denials that belong to it (or to no split by name)."""
    seen = {query.id for query in queries}
    if len(seen) < len(queries):
        raise InputError(
            "queries.jsonl holds an _id twice", field="dataset", remedy="Give every query an id of its own."
        )

    def of_split(query: EvalQuery) -> bool:
        denied = query.expect == "deny" and (query.metadata or {}).get("split", split) == split
        return denied or query.id in qrels

    chosen = tuple(query for query in queries if of_split(query))
    if not chosen:
        raise InputError(
            f"no query of queries.jsonl is judged in qrels/{split}.tsv", field="dataset", remedy="Check the ids."
        )
    absent = len(qrels.keys() - seen)
    return chosen, (f"{absent} judged queries are not in queries.jsonl",) if absent else ()


def _read_acls(folder: Path) -> dict[str, frozenset[str]]:
    corpus = read_jsonl(folder / "corpus.jsonl")
    return {value["_id"]: frozenset((value.get("metadata") or {}).get("acl") or ()) for _, value in corpus}


def _read_bindings(folder: Path, about: Mapping[str, Any]) -> tuple[ToolBinding, ...]:
    try:
        return tuple(ToolBinding(**binding) for binding in about.get("bindings") or ())
    except (TypeError, LirError) as error:
        raise damaged(folder / "dataset.json", 0, f"bindings: {error}") from error
