"""Small shared indexes for the tests of the framework doors, as the fixtures of `tests/integration` fill them."""

from __future__ import annotations

from collections.abc import Sequence

from lir_agents import Document, Principal

ALICE = Principal("alice", groups=["group:staff"])
BOB = Principal("bob", groups=["group:guests"])
QUERIES = (
    "how many days off do i get?",
    "what about leave of children",
    "the cat sat on a mat",
    "node version of the server",
    "rent office in zurich",
)
_TEXTS = (
    "Days off: everybody may get leave of 30 days.",
    "Leave for children is 5 days off a year.",
    "The cat sat on the mat and a dog talked.",
    "The node server is at version 22 of the table.",
    "To rent an office in Zurich, talk to access.",
    "A naive cafe: the chair and the table are long.",
    "We talked about children and the word of a dog.",
    "What node version is access server on?",
    "A long word about rent and days.",
    "The dog sat on a chair in the office.",
)


def documents(count: int = 50, *, acl: bool = False) -> list[Document]:
    """Documents that differ in a word each; even ones are Alice's, odd ones Bob's, every fifth is for both."""
    return [_document(number, acl) for number in range(count)]


def readers(number: int) -> Sequence[str]:
    if number % 5 == 0:
        return ["group:staff", "group:guests"]
    return ["group:staff"] if number % 2 == 0 else ["group:guests"]


def _document(number: int, acl: bool) -> Document:
    return Document(
        id=f"doc/{number}",
        text=f"{_TEXTS[number % len(_TEXTS)]} Version {number} of it.",
        title=f"Note {number}",
        source_uri=f"https://notes.example/{number}",
        acl=readers(number) if acl else None,
        metadata={"number": number, "parity": "even" if number % 2 == 0 else "odd"},
    )
