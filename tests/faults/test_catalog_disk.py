"""A full disk, a damaged file: typed errors that say what to do, and nothing half-written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lir_agents.errors import IntegrityError, StoreError
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.database import translate
from tests.catalog_documents import document

ROOT = Path(__file__).resolve().parents[2]

LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from lir_agents.errors import StoreError
from lir_agents.stores.catalog import Catalog
from tests.catalog_documents import document

catalog = Catalog.open(Path(sys.argv[1]))
catalog.commit(catalog.stage([document("before", "kept")]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
big = [document(f"big{i}", f"{i} " + "text " * 2000) for i in range(400)]
try:
    catalog.stage(big)
except StoreError as error:
    assert error.store == "catalog" and error.operation == "stage" and error.remedy, error
else:
    raise SystemExit("the limit was not felt")
assert catalog.document("before").text == "kept"
assert catalog.pending().tolist() == []
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
catalog.commit(catalog.stage(big))
print(catalog.counts().documents)
catalog.close()
"""


def test_a_file_that_may_not_grow_refuses_the_write_and_recovers(tmp_path):
    path = tmp_path / "catalog.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(ROOT)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "401\n"
    with Catalog.open(path, create=False) as catalog:
        assert catalog.check() == []
        assert catalog.counts().documents == 401


def test_a_full_disk_is_named_with_its_remedy(tmp_path):
    connection = sqlite3.connect(tmp_path / "small.sqlite")
    connection.execute("PRAGMA max_page_count = 4")
    connection.execute("CREATE TABLE t (x BLOB)")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    error = translate(full.value, "stage", tmp_path / "small.sqlite")
    assert isinstance(error, StoreError)
    assert (error.operation, error.retryable) == ("stage", False)
    assert "free some space" in error.remedy


def test_another_writer_is_a_retryable_error(tmp_path):
    path = tmp_path / "db.sqlite"
    first, second = sqlite3.connect(path, isolation_level=None), sqlite3.connect(path, timeout=0)
    first.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError) as busy:
        second.execute("CREATE TABLE t (x)")
    first.close()
    second.close()
    error = translate(busy.value, "commit", path)
    assert isinstance(error, StoreError)
    assert error.retryable


def filled(path: Path) -> int:
    """Makes a catalog of some hundred pages; returns its size in bytes."""
    with Catalog.open(path) as catalog:
        catalog.commit(
            catalog.stage([document(f"d{i}", [f"{i} {p} " + "word " * 100 for p in range(4)]) for i in range(60)])
        )
    return path.stat().st_size


def use_everything(path: Path) -> None:
    with Catalog.open(path, create=False) as catalog:
        rows = np.flatnonzero(catalog.live())
        catalog.passages(rows)
        catalog.current([f"d{i}" for i in range(60)])
        for i in range(60):
            catalog.document(f"d{i}")
        if catalog.check():
            raise IntegrityError("check found it", remedy="-")


@pytest.mark.parametrize("page", [1, 3, 5, 8, 12, 20, 40])
def test_a_damaged_page_is_never_taken_for_data(tmp_path, page):
    path = tmp_path / "catalog.sqlite"
    size = filled(path)
    offset = page * 4096
    assert offset < size
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 4096)
    with pytest.raises(IntegrityError) as caught:
        use_everything(path)
    assert caught.value.remedy


def test_a_damaged_text_is_named(tmp_path):
    path = tmp_path / "catalog.sqlite"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE body SET text = x'0102'")
    connection.close()
    with Catalog.open(path) as catalog, pytest.raises(IntegrityError, match="document 'd1', version 1, is damaged"):
        catalog.document("d1")


def test_a_table_that_is_gone_is_an_integrity_error(tmp_path):
    path = tmp_path / "catalog.sqlite"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE body")
    connection.close()
    with Catalog.open(path) as catalog, pytest.raises(IntegrityError, match="lir doctor"):
        catalog.document("d1")


def test_a_failed_write_leaves_the_catalog_usable(tmp_path):
    with Catalog.open(tmp_path / "catalog.sqlite") as catalog:
        catalog.commit(catalog.stage([document("a")]))

        def fail_halfway() -> None:
            with catalog._database.write("test") as connection:
                connection.execute("DELETE FROM passage")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail_halfway()
        assert catalog.counts().live_passages == 1
        catalog.commit(catalog.stage([document("a", "new")]))
        assert catalog.document("a").text == "new"
