"""An erasure that fails or dies on its way: log, memory and the catalog's own list forget at the next opening."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lir_agents import Document, LateInteractionIndex, Principal, StoreError
from tests.hashed_encoder import HashedEncoder

ANN = Principal("ann", groups=["staff"])
NAME = "zebra-doc-777"
SOUP = Document(id="soup", text="Soup and salad are served at noon.", acl=["staff"])
ZEBRA = Document(id=NAME, text="The quick zebra leaves the office at noon.", acl=["staff"])
ROOT = Path(__file__).parents[2]

STEPS = {
    "before anything is gone": ("catalog", "erase"),
    "before the stores are clean": ("vectors", "rebuild"),
    "before the log forgets": ("audit", "erase_documents"),
    "before conversations forget": ("memory", "unlearn"),
    "before the log is compact": ("audit", "compact"),
    "before the catalog forgets the names": ("catalog", "paid"),
}


def opened(path: Path) -> LateInteractionIndex:
    return LateInteractionIndex.open(path, access="acl", encoder=HashedEncoder())


def filled(path: Path) -> LateInteractionIndex:
    index = opened(path)
    index.add([ZEBRA, SOUP])
    index.search("zebra at noon", principal=ANN, thread_id="t")
    index.search(f"what is in {NAME}?", principal=ANN, thread_id="t")
    return index


def naming(path: Path) -> list[str]:
    return [
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and NAME.encode() in file.read_bytes()
    ]


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def erase_and_die(path: Path, step: str) -> None:
    room, method = STEPS[step]
    with filled(path) as index:
        setattr(getattr(index.rooms, room), method, die)
        index.erase([NAME])


@pytest.mark.parametrize("again", ["reopened", "erased again", "another is erased"])
@pytest.mark.parametrize("step", [step for step in STEPS if step != "before anything is gone"])
def test_an_erasure_that_failed_is_finished(quick_path, monkeypatch, step, again):
    path = quick_path / "i.lir"
    room, method = STEPS[step]

    def full(*_: object, **__: object) -> None:
        raise StoreError("the disk is full", store=room, operation=method)

    with filled(path) as index:
        with monkeypatch.context() as patched:
            patched.setattr(getattr(index.rooms, room), method, full)
            with pytest.raises(StoreError, match="disk is full"):
                index.erase([NAME])
        assert index.get(NAME, principal=ANN) is None
        assert index.verify()
        assert len(index.audit.events(kind="erasure")) == 1  # whatever comes of it, it is told
        if again != "reopened":
            index.erase([NAME if again == "erased again" else "nobody"])
            assert index.verify() == []
            assert naming(path) == []
    with opened(path) as index:
        assert index.verify() == []
        (first, *_) = index.audit.events(kind="erasure")
        assert index.audit.confirms(first.event_id, NAME)
        assert [hit.document_id for hit in index.search("zebra at noon", principal=ANN)] == [SOUP.id]
    assert naming(path) == []


def killed(path: Path, step: str) -> None:
    """Fills an index in a process of its own, which dies at that step of an erasure."""
    code = f"import sys, pathlib, {__name__} as here; here.erase_and_die(pathlib.Path(sys.argv[1]), sys.argv[2])"
    died = subprocess.run([sys.executable, "-c", code, str(path), step], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert naming(path)


@pytest.mark.parametrize(
    "step", ["before the stores are clean", "before the log forgets", "before conversations forget"]
)
def test_an_erasure_that_was_killed_is_finished_at_the_next_opening(quick_path, step):
    path = quick_path / "i.lir"
    killed(path, step)
    with opened(path) as index:
        assert index.verify() == []
        assert len(index.audit.events(kind="erasure")) == 1
    assert naming(path) == []


def test_one_killed_before_it_began_left_the_document_whole(quick_path):
    path = quick_path / "i.lir"
    killed(path, "before anything is gone")
    with opened(path) as index:
        assert index.verify() == []
        assert index.get(NAME, principal=ANN).text == ZEBRA.text
        assert index.erase([NAME]) == 1
    assert naming(path) == []


def test_what_the_log_cannot_forget_at_the_opening_is_told_and_waits(quick_path, monkeypatch, caplog):
    """Somebody reads the log in another process, for long: the index opens all the same."""
    path = quick_path / "i.lir"
    with filled(path) as index:
        reading = index.audit.export()
        next(reading)
        with pytest.raises(StoreError, match="reader keeps"):
            index.erase([NAME])
    with opened(path) as index:
        assert "erasure" in caplog.text
        assert NAME not in caplog.text
        assert [problem for problem in index.verify() if "erasure" in problem]
        assert [hit.document_id for hit in index.search("zebra at noon", principal=ANN)] == [SOUP.id]
        reading.close()
        index.erase([])
        assert index.verify() == []
    assert naming(path) == []


def test_a_document_added_again_meanwhile_stays(quick_path, monkeypatch):
    path = quick_path / "i.lir"

    def full(*_: object, **__: object) -> None:
        raise StoreError("the disk is full", store="audit", operation="erase")

    with filled(path) as index:
        with monkeypatch.context() as patched:
            patched.setattr(index.rooms.audit, "erase_documents", full)
            with pytest.raises(StoreError):
                index.erase([NAME])
        index.add([ZEBRA])
    with opened(path) as index:
        assert index.verify() == []
        assert index.get(NAME, principal=ANN).info.version == 1
