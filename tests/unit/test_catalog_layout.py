"""Telling an index directory from everything else, without changing it."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from pathlib import Path

import pytest

from lir_agents.errors import InputError, IntegrityError, LirError, StoreError
from lir_agents.stores.catalog import Catalog
from lir_agents.stores.layout import IndexLayout
from lir_agents.stores.lock import IndexLock
from tests.catalog_documents import document


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file below a folder."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "folder",
            file.lstat().st_mtime_ns,
        )
        for file in sorted(folder.rglob("*"))
    }


def refusal(layout: IndexLayout, kind: type[LirError]) -> str:
    """Every way in refuses in the same words, which are returned, says what to do, and leaves all as it was."""
    before, said = fingerprint(layout.path.parent), set()
    for attempt in (layout.state, layout.prepare, lambda: layout.prepare(create=False)):
        with pytest.raises(kind) as caught:
            attempt()
        assert caught.value.remedy
        said.add(str(caught.value))
    assert fingerprint(layout.path.parent) == before
    (words,) = said
    return words


def make_index(path: Path) -> IndexLayout:
    layout = IndexLayout(path)
    layout.prepare()
    with Catalog.open(layout.catalog) as catalog:
        catalog.commit(catalog.stage([document(f"d{i}", "text " * 200) for i in range(40)]))
    return layout


def test_a_new_index_an_existing_one_and_none(tmp_path):
    layout = IndexLayout(tmp_path / "deep" / "index")
    assert layout.state() == "absent"
    with pytest.raises(InputError, match="holds no index"):
        layout.prepare(create=False)
    assert not layout.path.exists()
    assert layout.prepare() == "new"
    assert layout.state() == "empty"
    with IndexLock(layout.lock):
        assert layout.prepare() == "new"  # the lock alone is no index
        layout.catalog.with_name("catalog.sqlite.new").write_bytes(b"half made")
        assert layout.state() == "empty"
        Catalog.open(layout.catalog).close()
    assert {file.name for file in layout.path.iterdir()} == {"lock", "catalog.sqlite"}
    assert layout.state() == "index"
    assert layout.prepare(create=False) == "existing"


def test_names_are_distinct_and_inside(tmp_path):
    layout = IndexLayout(tmp_path)
    names = [
        layout.catalog,
        layout.tokens,
        layout.vectors,
        layout.lexical,
        layout.audit,
        layout.memory,
        layout.lock,
    ]
    assert len(set(names)) == len(names)
    assert all(name.parent == tmp_path for name in names)


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    assert "is a file" in refusal(IndexLayout(path), InputError)


def test_a_directory_with_something_else_in_it(tmp_path):
    for name in ("lockers.txt", "thesis.doc"):
        path = tmp_path / name / "dir"
        path.mkdir(parents=True)
        (path / name).write_text("mine")
        assert "is no index: it holds" in refusal(IndexLayout(path), InputError)


def test_a_dangling_link_and_a_path_that_is_none(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "dangling" in refusal(IndexLayout(tmp_path / "link"), InputError)
    with pytest.raises(InputError, match="holds a NUL"):
        IndexLayout(Path("a\0b")).state()
    with pytest.raises(StoreError):
        IndexLayout(Path("x" * 5000)).state()


@pytest.mark.parametrize("left", ["tokens.lmdb", "chroma", "audit.sqlite", "catalog.sqlite-wal"])
def test_an_index_that_has_lost_its_catalog(tmp_path, left):
    path = tmp_path / "index"
    path.mkdir()
    (path / left).write_text("rest")
    assert "lost its catalog" in refusal(IndexLayout(path), IntegrityError)


def poke(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: poke(path, 60, (2).to_bytes(4, "big")), "format 2; this version .* newer version"),
        (lambda path: poke(path, 60, (0).to_bytes(4, "big")), "format 0; this version .* older version"),
        (lambda path: poke(path, 68, (0).to_bytes(4, "big")), "another program"),
        (lambda path: os.truncate(path, 0), "truncated: 0 bytes"),
        (lambda path: os.truncate(path, 70), "truncated: 70 bytes"),
        (lambda path: os.truncate(path, 5000), "truncated: 5000 of"),
        (lambda path: path.write_bytes(b"%PDF-1.7 something else entirely" * 100), "no SQLite database"),
    ],
)
def test_a_catalog_that_is_not_ours_or_not_whole(tmp_path, damage, words):
    layout = make_index(tmp_path / "index")
    damage(layout.catalog)
    assert re.search(words, refusal(layout, IntegrityError))
    before = fingerprint(tmp_path)
    for read_only in (False, True):
        with pytest.raises(IntegrityError, match=words):
            Catalog.open(layout.catalog, read_only=read_only)
    assert fingerprint(tmp_path) == before


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "index"
    path.mkdir()
    with sqlite3.connect(path / "catalog.sqlite") as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    assert "another program" in refusal(IndexLayout(path), IntegrityError)


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Catalog.open(tmp_path / "catalog.sqlite", create=False)
    with pytest.raises(InputError, match="does not exist"):
        Catalog.open(tmp_path / "catalog.sqlite", read_only=True)
    with pytest.raises(StoreError) as caught:
        Catalog.open(tmp_path / "no" / "catalog.sqlite")
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []
