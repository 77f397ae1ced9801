"""What tests of the whole engine share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lir_agents import Document, LateInteractionIndex
from lir_agents.policy import AclPolicy
from tests.hashed_encoder import HashedEncoder

# Two cores that others use too make any deadline a lie. In continuous integration the same examples every time:
# what fails there has to be what changed.
settings.register_profile("lir", deadline=None, max_examples=60, derandomize=bool(os.environ.get("CI")))
settings.load_profile("lir")

_SHARED_MEMORY = Path("/dev/shm")
_SUBJECTS = (
    ("leave", "Everybody has thirty days of paid leave a year, and five more when a child falls ill."),
    ("canteen", "The canteen opens at noon; soup and salad are served until the pots are empty."),
    ("bicycles", "Bicycles are parked behind the house, never in front of the emergency exit."),
    ("vpn", "To reach the network from home, start the VPN client and type the code of your token."),
    ("travel", "A journey by train is booked in first class when it takes longer than three hours."),
    ("invoices", "Invoices are paid within fourteen days after the manager has released them."),
    ("fire drill", "When the alarm sounds, leave everything behind and gather on the lawn."),
    ("pension", "The company doubles what you put aside for your pension, up to four percent."),
    ("laptops", "A broken laptop is exchanged at the service desk; bring your badge with you."),
    ("visitors", "Visitors sign in at reception and are accompanied wherever they go."),
)
_PLACES = ("Zurich", "Lisbon", "Oslo", "Warsaw", "Dublin", "Athens")


@pytest.fixture
def encoder() -> HashedEncoder:
    """A deterministic encoder that needs no model and counts what it encodes."""
    return HashedEncoder()


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests of logic, which need no disk to be true."""
    if not (_SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY, prefix="lir-test-") as folder:
        yield Path(folder)


def office_documents() -> list[Document]:
    """Sixty small documents about ten subjects in six offices; staff may read all, a place's people their own."""
    return [
        Document(
            id=f"{place.lower()}/{subject.replace(' ', '-')}",
            title=f"{subject.capitalize()} in {place}",
            text=f"{rule} This is what the office in {place} decided on the {number + 1}th of May.",
            source_uri=f"https://handbook.example/{place}/{number}",
            acl=["group:staff", f"place:{place.lower()}"],
            metadata={"place": place.lower(), "number": number},
        )
        for place in _PLACES
        for number, (subject, rule) in enumerate(_SUBJECTS)
    ]


@pytest.fixture(scope="session")
def office_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LateInteractionIndex]:
    """The office documents under access="acl", encoded by the bundled model. Read only: tests share it."""
    path = tmp_path_factory.mktemp("office") / "office.lir"
    with LateInteractionIndex.open(path, access=AclPolicy(rights={"replay": ["group:audit"]})) as index:
        report = index.add(office_documents())
        assert (report.added, report.failed) == (60, ())
        yield index
