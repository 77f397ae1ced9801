"""Indexes that the tests of the framework doors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lir_agents import LateInteractionIndex
from lir_agents.encoding.base import Encoder
from tests.doors import documents
from tests.hashed_encoder import HashedEncoder


@pytest.fixture(scope="session")
def tiny_encoder() -> Encoder:
    """No model to load, and alike words are alike: a search costs a millisecond or two."""
    return HashedEncoder()


@pytest.fixture(scope="session")
def open_index(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Iterator[LateInteractionIndex]:
    """Fifty documents that everybody may read."""
    path = tmp_path_factory.mktemp("doors") / "open.lir"
    with LateInteractionIndex.open(path, access="open", encoder=tiny_encoder) as index:
        assert index.add(documents()).added == 50
        yield index


@pytest.fixture(scope="session")
def acl_index(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Iterator[LateInteractionIndex]:
    """The same documents, each readable by Alice's group, by Bob's, or by both."""
    path = tmp_path_factory.mktemp("doors") / "acl.lir"
    with LateInteractionIndex.open(path, access="acl", encoder=tiny_encoder) as index:
        assert index.add(documents(acl=True)).added == 50
        yield index


@pytest.fixture(params=["open", "acl"])
def either_index(request: pytest.FixtureRequest) -> LateInteractionIndex:
    """Access off, and access on."""
    index: LateInteractionIndex = request.getfixturevalue(f"{request.param}_index")
    return index
