"""`LateInteractionIndex`: opens the rooms of one index directory, and is what people hold in their hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import Rows
from lir_agents.audit import payloads
from lir_agents.audit.log import AuditLog
from lir_agents.bindings import MetadataSignal, ToolBinding
from lir_agents.config import Settings, load_settings
from lir_agents.encoding.base import Encoder, QueryText
from lir_agents.errors import InputError
from lir_agents.governed import GovernedIndex
from lir_agents.graph.candidates import find_candidates
from lir_agents.graph.context import RetrievalContext
from lir_agents.graph.explaining import explain_hit
from lir_agents.graph.reading import read_query
from lir_agents.graph.refusals import refusals_recorded
from lir_agents.graph.request import checked_request
from lir_agents.graph.rerank import token_maxima
from lir_agents.graph.rooms import Rooms
from lir_agents.graph.surface import readable_now
from lir_agents.graph.view import look_at
from lir_agents.inspecting import older_than_told
from lir_agents.opening import Access, Opened, open_rooms
from lir_agents.reports import AddReport
from lir_agents.types import Filter, Hit, Principal, register_explainer

if TYPE_CHECKING:
    from langgraph.store.base import BaseStore

    from lir_agents.ingest.redact_base import Redactor
    from lir_agents.ingest.redact_keeping import VaultFile
    from lir_agents.memory.session import SessionMemory
    from lir_agents.ranking.explain import Explanation

__all__ = ["CandidateTable", "LateInteractionIndex"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """The first stage's union of candidates with every signal of each, for baselines and experiments.

    Attributes:
        rows: int64 [n], ascending.
        document_ids: The document of each.
        dense: float32 [n], cosine in [-1, 1].
        lexical: float32 [n], BM25, >= 0.
        maxsim: float32 [n] in [-1, 1], over the whole passage.
        block: float32 [n] in [-1, 1], MaxSim over the passage's best block.
    """

    rows: Rows
    document_ids: list[str]
    dense: NDArray[np.float32]
    lexical: NDArray[np.float32]
    maxsim: NDArray[np.float32]
    block: NDArray[np.float32]


class LateInteractionIndex(GovernedIndex):
    """One index directory, open. Safe to share between threads and tasks; one process owns it at a time.

    Example:
        >>> with LateInteractionIndex.open("handbook.lir") as index:
        ...     index.add([Document(id="hr/leave", text="Everybody has 30 days of leave.")])
        ...     result = index.search("how many days off do I get?", k=5)
    """

    def __init__(self, opened: Opened) -> None:
        self._rooms: Rooms | None = opened.rooms
        self._ingestor = opened.ingestor
        self._keeper = opened.keeper
        self._path = opened.path
        self._resources = opened.resources
        register_explainer(opened.rooms.origin, self)

    # ------------------------------------------------------------ opening and closing

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        access: Access | None = None,
        encoder: str | Path | Encoder | None = None,
        settings: Settings | None = None,
        bindings: Sequence[ToolBinding] = (),
        signals: Sequence[MetadataSignal] = (),
        store: BaseStore | None = None,
        redactor: Redactor | Literal[True] | None = None,
        vault: VaultFile | None = None,
        create: bool = True,
    ) -> LateInteractionIndex:
        """Opens an index directory, or makes one.

        Args:
            path: The directory. Everything of the index lies under it.
            access: "open" (one person's own files), "acl" (deny by default), or a `Policy`. Fixed when the index
                is created; None takes what it was created with, "open" for a new one.
            encoder: None for the model the index was created with (the bundled all-MiniLM-L6-v2 for a new one),
                a path or hub name of a sentence-transformers model, or an `Encoder`.
            settings: None reads the environment and lir.toml.
            bindings: How fields of tool outputs speak of documents.
            signals: What documents' own metadata says for them: that they are recent, or of a preferred kind.
            store: Any LangGraph `BaseStore` for session memory; None: an SQLite file in the index directory.
            redactor: Replaces what must not be stored (e-mail addresses, card numbers, keys, …) by placeholders,
                before any store, vector or log sees a document. True: the built-in recognisers; or a `Redactor`
                of your own. Fixed when the index is created; None takes what it was created with, and for a new
                one the setting `ingest.redact`.
            vault: Where what was replaced is kept, sealed, for those with the right to `reveal` it; None: nowhere.
                An index that had a vault once refuses to redact or to erase without it.
            create: Whether a missing index is made.

        Raises:
            InputError: No such index, a directory that holds something else, or `access` or `redactor` differs
                from what the index was created with.
            IndexLocked: Another process, or another handle of this one, has it open.
            IntegrityError: Another encoder, or a damaged or foreign directory; nothing was changed.
        """
        index = cls(
            open_rooms(
                Path(path),
                access=access,
                encoder=encoder,
                settings=settings or load_settings(),
                bindings=bindings,
                signals=signals,
                store=store,
                redactor=redactor,
                vault=vault,
                create=create,
            )
        )
        try:
            index._finish_erasure()
        except BaseException:
            index.close()
            raise
        return index

    def close(self) -> None:
        """Releases every file and the lock. Idempotent; hits given out can no longer be explained."""
        if self._rooms is not None:
            self._rooms.limits.threads.close()
        self._rooms = None
        self._resources.close()

    def __copy__(self) -> LateInteractionIndex:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LateInteractionIndex:
        # Whoever copies a retriever or a tool copies what it was told, and goes on through the same open files.
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open index cannot be pickled: open it in the process that uses it")

    def __enter__(self) -> LateInteractionIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def rooms(self) -> Rooms:
        """The open rooms, for graphs and integrations. Raises InputError once the index is closed."""
        if self._rooms is None:
            raise InputError("is closed", field="index", remedy="Open it again.")
        return self._rooms

    @property
    def path(self) -> Path:
        """The index directory."""
        return self._path

    # ------------------------------------------------------------ documents

    def add(self, documents: Iterable[Any], *, progress: Progress | None = None) -> AddReport:
        """Adds documents, or updates those that changed; what is unchanged is not encoded again.

        Args:
            documents: `Document`, LangChain `Document`, LlamaIndex nodes, mappings, or an iterator of them;
                consumed lazily, committed in batches.
            progress: Called with (documents done, passages done) after each batch.

        Returns:
            Counts, and every document that could not be added with its reason; the others are in.

        Raises:
            StoreError: A store failed (a full disk); batches committed before remain.
        """
        self.rooms  # noqa: B018 - raises where the index is closed
        return self._ingestor.add(documents, progress=progress)

    # ------------------------------------------------------------ search

    def warm_up(self, *, vectors: bool = True) -> None:
        """Reads what the first search of a process otherwise does, which most budgets have no time for.

        The model takes some hundred milliseconds, the vectors of all live passages a second for every 100,000.
        Where these cannot be read, searches do without, and say so in their coverage: that is no error here.

        Args:
            vectors: Whether to read vectors, too: not worth it for one search by one who may read few passages.

        Raises:
            StoreError: The catalog cannot be read.
        """
        rooms = self.rooms
        (encoding,) = rooms.encoder.encode_queries([QueryText("ready?")])
        if vectors:
            live = rooms.catalog.snapshot().live
            with suppress(Exception):  # whatever a room raises is said by the searches that do without it
                rooms.vectors.search(encoding.pooled, 1, live)  # looks at all of them; what it finds goes nowhere

    def candidates(
        self,
        query: str,
        *,
        principal: Principal | None = None,
        filter: Filter | None = None,
        depth: int = 100,
    ) -> CandidateTable:
        """The first stage alone, with every signal of each candidate: what baselines are made of.

        The same scope as a search; it is recorded as a decision, since document ids come back, and what may no
        longer be read when it returns is left out.

        Args:
            query: The turn.
            principal: Who asks.
            filter: Metadata filter.
            depth: Candidates taken from each of the two lists.
        """
        rooms = self.rooms
        request = checked_request({"query": query, "k": depth, "filter": filter}, rooms.settings.search)
        principal = RetrievalContext.of({"principal": principal}).principal
        with refusals_recorded(rooms, principal):
            scope = rooms.policy.authorize(principal, "search")
            view = look_at(rooms, request, scope)
        rooms.audit.append(payloads.decision(principal, scope.decision, detail={"operation": "candidates"}))
        turn = read_query(rooms, request.query, view)
        found = find_candidates(rooms, turn, view, depth)
        (maxima,) = token_maxima(rooms, [turn], found.rows)
        with refusals_recorded(rooms, principal):
            kept = np.array(readable_now(rooms, request, scope, found.rows), np.bool_)
        documents = {passage.row: passage.document_id for passage in rooms.catalog.passages(found.rows[kept])}
        kept &= np.isin(found.rows, list(documents))  # erased within the last microseconds
        return CandidateTable(
            rows=found.rows[kept],
            document_ids=[documents[row] for row in found.rows[kept].tolist()],
            dense=found.dense[kept],
            lexical=found.lexical[kept],
            maxsim=maxima.maxsim(turn.weights)[kept],
            block=maxima.best_block(turn.weights)[kept],
        )

    def explain(self, hit: Hit) -> Explanation:
        """Which query tokens met which words of a hit; the same as `hit.explain()`."""
        return explain_hit(self.rooms, hit)

    # ------------------------------------------------------------ state

    @property
    def memory(self) -> SessionMemory:
        """What conversations over this index have said: recall, remember, forget."""
        return self.rooms.memory

    @property
    def audit(self) -> AuditLog:
        """The log of everything that happened to this index."""
        return self.rooms.audit

    def stats(self) -> dict[str, Any]:
        """Counts, sizes in bytes and what the index was made with."""
        rooms = self.rooms
        generation = rooms.catalog.generation()
        return {
            "path": str(self._path),
            "access": rooms.policy.name,
            "epoch": rooms.catalog.epoch,
            **asdict(rooms.catalog.counts()),
            "encoder": generation.name if generation else "",
            "fingerprint": generation.fingerprint if generation else "",
            "backend": str(getattr(rooms.encoder, "backend", None) or "not chosen before the first text"),
            "token_bytes": rooms.tokens.size_bytes(),
            "disk_bytes": sum(file.stat().st_size for file in self._path.rglob("*") if file.is_file()),
            "audit_events": rooms.audit.size,
        }

    def verify(self) -> list[str]:
        """Checks the catalog, the stored vectors and the audit chain, and that they are of one time.

        Returns:
            What is wrong, in words; empty when nothing is.
        """
        rooms = self.rooms
        problems = list(rooms.catalog.check())
        problems += [f"passage row {row}: its token vectors are damaged" for row in rooms.tokens.verify()]
        snapshot = rooms.catalog.snapshot()
        live, committed = np.flatnonzero(snapshot.live), np.flatnonzero(snapshot.committed)
        for name, wanted, rows in (
            ("vectors", live, rooms.vectors.rows()),
            ("tokens", committed, rooms.tokens.rows()),
            ("lexical", committed, rooms.lexical.rows()),
        ):
            if missing := len(np.setdiff1d(wanted, rows)):
                problems.append(f"{name}: {missing} passages are missing; reopen the index to mend it")
        if rooms.catalog.owed() is not None:
            problems.append("an erasure is not finished in the log and memory; erase again, or reopen the index")
        log = rooms.audit.verify()
        problems += [str(problem) for problem in log.problems]
        # The catalog's epoch after the log's: what is added meanwhile moves the catalog alone.
        problems += [f"catalog: {problem}" for problem in older_than_told(rooms.catalog.epoch, log.index_epoch)]
        return problems
