"""Going back to an earlier version, and erasing for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lir_agents.errors import InputError, StoreError
from lir_agents.stores.catalog import Catalog
from tests.catalog_documents import document


@pytest.fixture
def catalog(tmp_path: Path):
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


def add(catalog: Catalog, *documents):
    return catalog.commit(catalog.stage(documents))


def current(catalog: Catalog) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for passage in catalog.passages(np.flatnonzero(catalog.live())):
        texts.setdefault(passage.document_id, []).append(passage.text)
    return texts


def test_rollback_repeats_an_old_version_as_the_next_one(catalog):
    old = document("a", ["one", "two"], title="T", metadata={"k": [1]})
    add(catalog, old)
    add(catalog, document("a", "changed", metadata={"k": [2]}))
    staged = catalog.rollback("a", 1)
    assert current(catalog) == {"a": ["changed"]}  # not before it is committed
    sources = catalog.passages(staged.sources)
    copies = catalog.passages(staged.rows)
    assert [p.text for p in sources] == [p.text for p in copies] == ["one", "two"]
    catalog.commit(staged.rows)
    restored = catalog.document("a")
    assert (restored.version, restored.text, restored.title, restored.metadata) == (3, "one\ntwo", "T", {"k": [1]})
    assert restored.info.restored_from == 1
    # Adding the old text again is "unchanged".
    assert catalog.current(["a"]) == {"a": (old.content_sha256, catalog.standing("a").access_key)}
    assert (catalog.match({"k": {"$contains": 1}}) & catalog.live()).sum() == 2


def test_rollback_gives_back_no_access_that_was_taken_away(catalog):
    open_to_all = document("a", "salary list", access="everyone")
    add(catalog, open_to_all)
    add(catalog, document("a", "salary list, hidden", access="board"))
    catalog.commit(catalog.rollback("a", 1).rows)
    assert catalog.standing("a").access_key == "board"
    # So that adding it again, open to all, is a change.
    assert catalog.current(["a"]) == {"a": (open_to_all.content_sha256, "board")}
    # Its content came in under the first one, as a vault has to know.
    assert catalog.standing("a", 1, 2, None, 7).keys == ("everyone", "board", "everyone", None)


def test_rollback_of_a_deleted_document_brings_it_back(catalog):
    add(catalog, document("a", "text"))
    catalog.retire(["a"])
    catalog.commit(catalog.rollback("a", 1).rows)
    assert current(catalog) == {"a": ["text"]}


def test_rollback_refuses_what_is_not_there(catalog):
    add(catalog, document("a"))
    catalog.stage([document("a", "pending")])
    for id, version in (("a", 2), ("a", 0), ("b", 1)):
        with pytest.raises(InputError, match="has no version"):
            catalog.rollback(id, version)
    with pytest.raises(InputError):
        catalog.rollback("a", 2**70)


def test_the_whole_index_goes_back_in_one_epoch(catalog):
    add(
        catalog, document("same"), document("changed", "old"), document("deleted"), document("acl", "t", access="x")
    )
    then = current(catalog)
    add(catalog, document("changed", "new"), document("added"), document("acl", "t2", access="y"))
    catalog.retire(["deleted"])
    plan = catalog.rollback_plan(1)
    assert set(plan.restore) == {("changed", 1), ("deleted", 1), ("acl", 1)}
    assert plan.retire == ("added",)
    rows = [catalog.rollback(id, version).rows for id, version in plan.restore]
    epoch = catalog.epoch
    catalog.commit(rows, retire=plan.retire)
    assert current(catalog) == then
    assert catalog.epoch == epoch + 1
    again = catalog.rollback_plan(1)
    assert again.restore == again.retire == ()
    with pytest.raises(InputError, match="outside"):
        catalog.rollback_plan(99)


def test_erasure_leaves_no_byte_behind(catalog, tmp_path):
    words = ["erasedtext", "erasedtitle", "erasedkey", "erasedvalue", "erasedid", "erasedgrant", "erasedold"]
    kept = document("kept", "keptwords " * 50, metadata={"kept": "x"}, access="keptgrant")
    add(catalog, kept)
    meta = {"erasedkey": "erasedvalue"}
    add(catalog, document("erasedid", "erasedold " * 500, access="erasedgrant"))
    add(
        catalog, document("erasedid", ["erasedtext"] * 20, title="erasedtitle", metadata=meta, access="erasedgrant")
    )
    catalog.stage([document("erasedid", "erasedtext pending")])
    everything = np.flatnonzero(catalog.document_column() >= 0)
    gone = catalog.erase(["erasedid", "unknown"])
    assert set(everything) - set(gone) == set(catalog.rows_of(["kept"])["kept"])
    assert catalog.versions("erasedid") == []
    assert catalog.passages(gone) == []
    assert catalog.access_classes().keys() == {1}
    assert catalog.known_filter_keys() == {"kept"}
    assert not catalog.match({"erasedkey": {"$exists": True}}).any()
    assert (catalog.access_class_column()[gone[gone < len(catalog.live())]] == -1).all()
    with pytest.raises(StoreError, match="gone"):
        catalog.commit(gone)

    assert catalog.owed() == ["erasedid", "unknown"]  # for those who are to forget it yet
    catalog.paid(["erasedid", "unknown"])
    assert catalog.owed() is None
    catalog.compact()
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        for word in words:
            assert word.encode() not in data, (file.name, word)
    assert b"keptwords" in (tmp_path / "catalog.sqlite").read_bytes()  # the scan can find what is there
    assert current(catalog) == {"kept": [kept.text]}
    (fresh,) = catalog.stage([document("erasedid", "again")])
    assert fresh.min() > gone.max()
    assert catalog.check() == []


def test_compacting_gives_the_space_back(catalog, tmp_path):
    file = tmp_path / "catalog.sqlite"
    add(catalog, document("big", [f"{i} " + "words " * 100 for i in range(500)]), document("small"))
    catalog.compact()
    size_bytes = file.stat().st_size
    catalog.erase(["big"])
    catalog.compact()
    assert file.stat().st_size < size_bytes / 2
    assert (tmp_path / "catalog.sqlite-wal").stat().st_size == 0
    assert current(catalog) == {"small": ["some text"]}


def test_cached_columns_forget_what_was_erased(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with Catalog.open(path) as owner, Catalog.open(path, read_only=True) as reader:
        add(owner, document("a", metadata={"k": "secret"}), document("b", metadata={"k": "open"}))
        assert owner.match({"k": "secret"}).any()
        assert reader.match({"k": "secret"}).any()
        owner.erase(["a"])
        for catalog in (owner, reader):
            state = catalog.snapshot()
            column = catalog._columns.get("k", len(state.born), state.purges)
            assert [value for _, value in column.index] == ["open"]


def test_erasing_in_the_middle_of_a_search_hides_the_passage(catalog):
    add(catalog, document("a", "secret", metadata={"k": 1}), document("b", metadata={"k": 1}))
    state = catalog.snapshot()
    catalog.erase(["a"])
    rows = np.flatnonzero(state.live & catalog.match({"k": 1}, snapshot=state))
    assert [p.document_id for p in catalog.passages(rows)] == ["b"]


def test_erasing_nothing_changes_nothing(catalog):
    add(catalog, document("a"))
    epoch = catalog.epoch
    assert catalog.erase(["unknown"]).tolist() == []
    assert catalog.erase([]).tolist() == []
    assert catalog.epoch == epoch
