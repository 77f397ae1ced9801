"""The catalog against a model of a dozen lines, over arbitrary sequences of operations."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lir_agents.stores.catalog import Catalog
from tests.catalog_documents import document

IDS = st.sampled_from(["a", "b", "c"])


class CatalogHistory(RuleBasedStateMachine):
    """`self.past[epoch]` is what was current then: passages by document."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.catalog = Catalog.open(self.folder / "catalog.sqlite")
        self.staged: list[tuple[np.ndarray, str, list[str]]] = []
        self.past: list[dict[str, list[str]]] = [{}]
        self.rows_seen: set[int] = set()
        self.texts: dict[str, dict[int, list[str]]] = {}
        self.counter = 0

    def _step(self, now: dict[str, list[str]], *, changed: bool) -> None:
        if changed:
            self.past.append(now)

    @rule(id=IDS, count=st.integers(1, 3))
    def stage(self, id: str, count: int) -> None:
        self.counter += 1
        texts = [f"{id} {self.counter} {i}" for i in range(count)]
        (rows,) = self.catalog.stage([document(id, texts)])
        assert not self.rows_seen & set(rows.tolist())
        self.rows_seen |= set(rows.tolist())
        self.staged.append((rows, id, texts))

    @rule()
    def commit(self) -> None:
        now = dict(self.past[-1])
        before = {row for rows in self.catalog.rows_of(list(now)).values() for row in rows}
        retired = self.catalog.commit([rows for rows, _, _ in self.staged])
        for rows, id, texts in self.staged:
            now[id] = texts
            self.rows_seen |= set(rows.tolist())
        after = {row for rows in self.catalog.rows_of(list(now)).values() for row in rows}
        fresh = {row for rows, _, _ in self.staged for row in rows}
        assert set(retired.tolist()) == (before | fresh) - after
        self._step(now, changed=bool(self.staged))
        self.staged = []

    @rule()
    def crash_and_discard(self) -> None:
        self.catalog.close()
        self.catalog = Catalog.open(self.folder / "catalog.sqlite")
        expected = sorted(row for rows, _, _ in self.staged for row in rows)
        assert self.catalog.pending().tolist() == expected
        assert self.catalog.discard_pending().tolist() == expected
        self.staged = []

    @rule(ids=st.lists(IDS, max_size=2))
    def retire(self, ids: list[str]) -> None:
        now = {id: texts for id, texts in self.past[-1].items() if id not in ids}
        self.catalog.retire(ids)
        self._step(now, changed=now != self.past[-1])

    @rule(id=IDS, back=st.integers(0, 5))
    def roll_back(self, id: str, back: int) -> None:
        versions = self.catalog.versions(id)
        if not versions or any(staged_id == id for _, staged_id, _ in self.staged):
            return
        old = versions[max(0, len(versions) - 1 - back)]
        stored = self.catalog.document(id, old.version)
        assert stored is not None
        restored = self.catalog.rollback(id, old.version)
        assert not self.rows_seen & set(restored.rows.tolist())
        self.rows_seen |= set(restored.rows.tolist())
        self.catalog.commit(restored.rows)
        self._step({**self.past[-1], id: stored.text.split("\n")}, changed=True)

    @rule(id=IDS)
    def erase(self, id: str) -> None:
        known = bool(self.catalog.versions(id)) or any(staged_id == id for _, staged_id, _ in self.staged)
        self.catalog.erase([id])
        self.staged = [entry for entry in self.staged if entry[1] != id]
        self.past = [{k: v for k, v in then.items() if k != id} for then in self.past]
        if known:
            self.past.append(self.past[-1])

    @rule()
    def compact(self) -> None:
        self.catalog.compact()

    @invariant()
    def the_past_and_the_present_are_as_the_model_says(self) -> None:
        assert self.catalog.epoch == len(self.past) - 1
        for epoch, expected in enumerate(self.past):
            if epoch < len(self.past) - 4:
                continue
            found: dict[str, list[str]] = {}
            for passage in self.catalog.passages(np.flatnonzero(self.catalog.live_at(epoch))):
                found.setdefault(passage.document_id, []).append(passage.text)
            assert found == expected
        assert self.catalog.current(["a", "b", "c"]).keys() == self.past[-1].keys()
        with Catalog.open(self.folder / "catalog.sqlite", read_only=True) as fresh:
            assert fresh.live().tolist() == self.catalog.live().tolist()
            assert fresh.access_class_column().tolist() == self.catalog.access_class_column().tolist()

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            assert self.catalog.check() == []
            self.catalog.close()
            shutil.rmtree(self.folder)


TestCatalogHistory = CatalogHistory.TestCase
TestCatalogHistory.settings = settings(max_examples=15, stateful_step_count=14, deadline=None)
