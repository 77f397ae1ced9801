"""The words of the house as frozen dataclasses, one per stage of a search.

Nothing here imports numpy, torch or a framework: these types cross every door, and `import lir_agents` has
to stay cheap. Arrays live in :mod:`lir_agents.arrays`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload
from weakref import WeakValueDictionary

from lir_agents.bounds import require_writable
from lir_agents.errors import InputError
from lir_agents.readonly import ReadOnly

if TYPE_CHECKING:
    from lir_agents.ranking.explain import Explanation

__all__ = [
    "Coverage",
    "Decision",
    "Document",
    "Filter",
    "Hit",
    "Passage",
    "Principal",
    "SearchResult",
    "StageCoverage",
    "ToolSignal",
    "Turn",
]

Scalar = str | int | float | bool
Filter = Mapping[str, Any]
"""A metadata filter: `{key: value}` or `{key: {"$op": value}}` with $eq $ne $in $nin $gt $gte $lt $lte $exists
$contains, joined by "$and" / "$or" / "$not". Several keys in one mapping are joined by and. A key that a
document lacks never matches, also under $ne and $nin; `{"$exists": False}` asks for the lack itself."""


def _empty() -> Mapping[str, Any]:
    return ReadOnly()


def _freeze(values: Sequence[str] | None, name: str) -> tuple[str, ...]:
    if values is None:
        return ()
    if isinstance(values, str):
        raise InputError(
            "got one string where a list of strings is wanted", field=name, remedy=f"Write {name}=[{values!r}]."
        )
    for value in values:
        if not isinstance(value, str) or not value:
            raise InputError(f"holds {value!r}", field=name, remedy="Every entry is a non-empty string.")
    return tuple(values)


# ---------------------------------------------------------------- what goes in


@dataclass(frozen=True, slots=True)
class Document:
    """What its owner knows by an id; it is split into passages when it is added.

    Args:
        text: The whole text.
        id: Stable identifier. Without one, the id is derived from the content, so that adding the same text
            twice adds it once.
        title: Carried into the encoding of every passage.
        source_uri: Where a reader finds the original.
        source: Which system it came from.
        acl: Grants of which a principal needs at least one to read the document. None means "no ACL was
            given": readable by nobody in an index opened with ``access="acl"``.
        metadata: Values of type str, int, float, bool, or lists of them; searchable by `filter`.
    """

    text: str
    id: str | None = None
    title: str = ""
    source_uri: str = ""
    source: str = ""
    acl: Sequence[str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=_empty)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError(f"is {type(self.text).__name__}", field="text", remedy="Pass the text as str.")
        if self.id is not None and (not isinstance(self.id, str) or not self.id):
            raise InputError(f"is {self.id!r}", field="id", remedy="Pass a non-empty string, or leave it out.")
        if self.acl is not None:
            object.__setattr__(self, "acl", _freeze(self.acl, "acl"))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `grants` is what the policy compares with a document's ACL.

    Args:
        id: The principal's own identifier; one of its grants.
        groups: Further grants, e.g. ``["group:staff", "region:eu"]``.
        tenant: Which tenant the principal belongs to; part of every cache key and memory namespace.
        attributes: What attribute-based policies read.
    """

    id: str
    groups: Sequence[str] = ()
    tenant: str = ""
    attributes: Mapping[str, Any] = field(default_factory=_empty)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InputError(f"is {self.id!r}", field="principal.id", remedy="Pass a non-empty string.")
        if not isinstance(self.tenant, str):
            raise InputError(f"is {self.tenant!r}", field="principal.tenant", remedy="Pass a string.")
        if not isinstance(self.attributes, Mapping):
            raise InputError(f"is {self.attributes!r}", field="principal.attributes", remedy="Pass a mapping.")
        object.__setattr__(self, "groups", _freeze(self.groups, "principal.groups"))
        object.__setattr__(self, "attributes", ReadOnly(self.attributes))

    @property
    def grants(self) -> frozenset[str]:
        """The principal's own id and all of its groups."""
        return frozenset((self.id, *self.groups))

    def __eq__(self, other: object) -> bool:
        # Groups often come out of a set: in another order they are the same principal.
        if type(other) is not Principal:
            return NotImplemented
        return (self.id, self.tenant, self.grants, self.attributes) == (
            other.id,
            other.tenant,
            other.grants,
            other.attributes,
        )

    def __hash__(self) -> int:
        return hash((self.id, self.tenant, self.grants))


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance of a conversation, oldest first in a history.

    Args:
        role: "user", "assistant" or "tool".
        text: What was said.
        passage_ids: Passages (or documents) shown with this turn.

    Raises:
        InputError: `role` is another, or `text` or one of the ids is no text.
    """

    role: Literal["user", "assistant", "tool"]
    text: str
    passage_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.role not in ("user", "assistant", "tool"):
            raise InputError(f"is {self.role!r}", field="turn.role", remedy='Use "user", "assistant" or "tool".')
        if not isinstance(self.text, str):
            raise InputError(f"is a {type(self.text).__name__}", field="turn.text", remedy="Pass text.")
        object.__setattr__(self, "passage_ids", _freeze(self.passage_ids, "turn.passage_ids"))


@dataclass(frozen=True, slots=True)
class ToolSignal:
    """What a tool answered just now.

    Args:
        tool: The tool's name.
        output: Its answer: text, or a mapping whose fields `ToolBinding`s can read.
        confidence: How far to trust it, in [0, 1].
        error: Why the tool failed, where it did; such a signal moves no score and is shown in the breakdown.

    Raises:
        InputError: `tool` or `error` is no text, `confidence` is out of range, or an integer of the output is
            beyond 4096 bits.
    """

    tool: str
    output: str | Mapping[str, Any]
    confidence: float = 1.0
    error: str = ""

    def __post_init__(self) -> None:
        for name in ("tool", "error"):
            if not isinstance(given := getattr(self, name), str):
                raise InputError(f"is a {type(given).__name__}", field=f"tool_signal.{name}", remedy="Pass text.")
        require_writable(self.confidence, "tool_signal.confidence")
        require_writable(self.output, "tool_signal.output")
        if not 0.0 <= self.confidence <= 1.0:
            raise InputError(
                f"is {self.confidence!r}", field="tool_signal.confidence", remedy="Use a number in [0, 1]."
            )


# ---------------------------------------------------------------- what is stored


@dataclass(frozen=True, slots=True)
class Passage:
    """The unit that is encoded, scored and cited; immutable, one per version.

    `start` and `end` are offsets in characters into the normalised text of the document's version:
    ``document_text[start:end] == text``. `row` is the catalog's own number of the passage, never reused.
    """

    row: int
    passage_id: str
    document_id: str
    version: int
    ordinal: int
    start: int
    end: int
    text: str
    title: str
    source: str
    source_uri: str
    content_sha256: str
    access_class: int
    metadata: Mapping[str, Any]


# ---------------------------------------------------------------- what comes out


class Explainer(Protocol):
    """An open index, to the hits that it gave out."""

    def explain(self, hit: Hit) -> Explanation:
        """Which query tokens met which words of the hit's passage."""


# Hits name the index they came from instead of holding it: they can be copied, sent and checkpointed, and an
# index that is closed is not kept alive by its results.
_EXPLAINERS: WeakValueDictionary[str, Explainer] = WeakValueDictionary()


def register_explainer(origin: str, explainer: Explainer) -> None:
    """Lets hits of this origin be explained for as long as the explainer lives."""
    _EXPLAINERS[origin] = explainer


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer to a request: who may do what, why, and under which state of the policy.

    `reason` never names a document; `epoch` counts changes of the policy.
    """

    allowed: bool
    action: str
    principal_id: str
    reason: str
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class StageCoverage:
    """What became of one stage. `elapsed_ms` is wall-clock milliseconds."""

    status: Literal["ok", "skipped", "timed_out", "failed"]
    reason: str = ""
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a result was made from, in the shape of Vespa's: nothing is left out in silence.

    `full` is True when every stage that was asked for ran to its end.
    """

    stages: Mapping[str, StageCoverage]

    @property
    def full(self) -> bool:
        return all(stage.status in ("ok", "skipped") for stage in self.stages.values())

    @property
    def caveat(self) -> str:
        """What is missing, in words for a person or a model; empty when nothing is."""
        missing = [
            f"{name} {stage.status.replace('_', ' ')}" + (f" ({stage.reason})" if stage.reason else "")
            for name, stage in self.stages.items()
            if stage.status in ("timed_out", "failed")
        ]
        return "Ranked without: " + "; ".join(missing) + "." if missing else ""


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage of a result. `score` is the sum of `breakdown`; `rank` starts at 1."""

    rank: int
    score: float
    text: str
    title: str
    document_id: str
    passage_id: str
    version: int
    source: str
    source_uri: str
    content_sha256: str
    start: int
    end: int
    metadata: Mapping[str, Any]
    breakdown: Mapping[str, float]
    row: int = field(default=-1, repr=False, compare=False)
    query: str = field(default="", repr=False, compare=False)
    origin: str = field(default="", repr=False, compare=False)

    def explain(self) -> Explanation:
        """Which query tokens met which words of this passage.

        Returns:
            An `Explanation`: for every query token, the passage word that it matched best, the similarity and
            the character offsets of the word in `text`.

        Raises:
            InputError: The index that the hit came from is closed.
            StoreError: The passage's vectors could not be read.
        """
        explainer = _EXPLAINERS.get(self.origin)
        if explainer is None:
            raise InputError(
                "the index of this hit is closed", field="hit", remedy="Explain hits while their index is open."
            )
        return explainer.explain(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the ties to the index, as plain JSON data."""
        return {
            "rank": self.rank,
            "score": self.score,
            "passage_id": self.passage_id,
            "document_id": self.document_id,
            "version": self.version,
            "title": self.title,
            "text": self.text,
            "source": self.source,
            "source_uri": self.source_uri,
            "content_sha256": self.content_sha256,
            "start": self.start,
            "end": self.end,
            "metadata": dict(self.metadata),
            "breakdown": dict(self.breakdown),
        }

    def _repr_html_(self) -> str:
        """A card, as notebooks show it; see `lir_agents.render_html`."""
        from lir_agents.render_html import hit_html

        return hit_html(self)


@dataclass(frozen=True, slots=True)
class SearchResult(Sequence[Hit]):
    """Ranked hits with what a reader needs to trust them.

    Attributes:
        hits: Best first.
        query: The query as it was searched.
        coverage: What was left out, and why.
        timings_ms: Wall-clock milliseconds per stage, and "total".
        event_id: This search's entry in the audit log.
    """

    hits: tuple[Hit, ...]
    query: str
    coverage: Coverage
    timings_ms: Mapping[str, float]
    event_id: str

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """The whole result as plain JSON data."""
        return {
            "query": self.query,
            "hits": [hit.to_dict() for hit in self.hits],
            "coverage": {
                "full": self.coverage.full,
                "caveat": self.coverage.caveat,
                "stages": {
                    name: {"status": stage.status, "reason": stage.reason, "elapsed_ms": stage.elapsed_ms}
                    for name, stage in self.coverage.stages.items()
                },
            },
            "timings_ms": dict(self.timings_ms),
            "event_id": self.event_id,
        }

    def _repr_html_(self) -> str:
        """Ranked cards, as notebooks show them; see `lir_agents.render_html`."""
        from lir_agents.render_html import result_html

        return result_html(self)
