"""Roots and proofs equal the recursive definitions of RFC 6962, and no altered proof verifies."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents.audit import AuditEvent, AuditLog, Erasable, verify_consistency, verify_inclusion
from lir_agents.audit.canonical import canonical, commit, resolve, separate
from lir_agents.audit.merkle import (
    EMPTY_ROOT,
    consistency_path,
    extend,
    inclusion_path,
    leaf_hash,
    node_count,
    node_position,
    range_hash,
    root_of_frontier,
)
from lir_agents.errors import InputError

LARGEST = 70


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(entries: list[bytes]) -> bytes:
    """RFC 6962 section 2.1."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def path(m: int, entries: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2."""
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = split(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


ENTRIES = [f"entry {i}".encode() for i in range(LARGEST)]


@pytest.fixture(scope="module")
def nodes() -> list[bytes]:
    stored: list[bytes] = []
    frontier: list[bytes] = []
    for index, entry in enumerate(ENTRIES):
        assert len(stored) == node_count(index)
        stored += extend(frontier, index, leaf_hash(entry))
        assert root_of_frontier(frontier) == mth(ENTRIES[: index + 1])
    return stored


def test_the_reference_roots_of_certificate_transparency():
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    frontier: list[bytes] = []
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for index, (leaf, root) in enumerate(zip(leaves, roots, strict=True)):
        extend(frontier, index, leaf_hash(bytes.fromhex(leaf)))
        assert root_of_frontier(frontier).hex() == root


def test_every_inclusion_proof_is_that_of_the_definition(nodes):
    for size in range(1, LARGEST + 1):
        root = range_hash(nodes.__getitem__, 0, size)
        assert root == mth(ENTRIES[:size])
        for index in range(size):
            proof = inclusion_path(nodes.__getitem__, index, size)
            assert proof == path(index, ENTRIES[:size])
            assert verify_inclusion(leaf_hash(ENTRIES[index]), index, size, proof, root)


def test_every_consistency_proof_is_that_of_the_definition(nodes):
    roots = [mth(ENTRIES[:size]) for size in range(LARGEST + 1)]
    for new in range(LARGEST + 1):
        assert verify_consistency(0, EMPTY_ROOT, new, roots[new], [])
        for old in range(1, new + 1):
            proof = consistency_path(nodes.__getitem__, old, new)
            assert proof == subproof(old, ENTRIES[:new], True)
            assert verify_consistency(old, roots[old], new, roots[new], proof)


def test_stored_nodes_are_full_subtrees(nodes):
    for level in range(7):
        for index in range(LARGEST >> level):
            start, stop = index << level, (index + 1) << level
            assert nodes[node_position(level, index)] == mth(ENTRIES[start:stop])


def test_proofs_read_few_nodes():
    size, reads = 1_000_003, []

    def read(position: int) -> bytes:
        reads.append(position)
        return b"\0" * 32

    inclusion_path(read, 777_777, size)
    consistency_path(read, 654_321, size)
    assert len(reads) <= 4 * math.ceil(math.log2(size))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), size=st.integers(1, LARGEST))
def test_an_altered_inclusion_proof_fails(data, size, nodes):
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion_path(nodes.__getitem__, index, size), mth(ENTRIES[:size])
    leaf = leaf_hash(ENTRIES[index])
    wrong = hashlib.sha256(b"wrong").digest()
    assert not verify_inclusion(wrong, index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, proof, wrong)
    assert not verify_inclusion(leaf, index, size, [*proof, wrong], root)
    assert not verify_inclusion(leaf, size, size, proof, root)
    assert not verify_inclusion(leaf, -1, size, proof, root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaf, index, size, [*proof[:at], wrong, *proof[at + 1 :]], root)
        assert not verify_inclusion(leaf, index, size, proof[:-1], root)
        other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
        assert not verify_inclusion(leaf, other, size, proof, root)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), new=st.integers(2, LARGEST))
def test_an_altered_consistency_proof_fails(data, new, nodes):
    old = data.draw(st.integers(1, new - 1))
    proof = consistency_path(nodes.__getitem__, old, new)
    before, after = mth(ENTRIES[:old]), mth(ENTRIES[:new])
    edited = mth([b"edited", *ENTRIES[1:old]])
    wrong = hashlib.sha256(b"wrong").digest()
    assert not verify_consistency(old, edited, new, after, proof)
    assert not verify_consistency(old, before, new, wrong, proof)
    assert not verify_consistency(old, before, new, after, [*proof, wrong])
    assert not verify_consistency(old, before, new, after, proof[:-1])
    assert not verify_consistency(new, after, old, before, proof)
    at = data.draw(st.integers(0, len(proof) - 1))
    assert not verify_consistency(old, before, new, after, [*proof[:at], wrong, *proof[at + 1 :]])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_canonical_json_reads_back_exactly_and_does_not_depend_on_the_order_of_keys(value):
    text = canonical(value)
    back = json.loads(text)
    assert canonical(back) == text
    assert repr(back) == repr(json.loads(json.dumps(value, sort_keys=True)))  # -0.0 and 1.0 stay what they are
    if isinstance(value, dict):
        assert canonical(dict(reversed(value.items()))) == text


@settings(max_examples=100, deadline=None)
@given(JSON, st.text().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_an_erasable_value_is_committed_to_and_absent(value, subject):
    text, parts = separate({"kept": [1, {"deep": Erasable(value, subject=subject)}], "plain": 2.5})
    (part,) = parts
    assert (part.number, part.subject, part.text) == (1, subject, canonical(value))
    assert commit(part.key, canonical(value)) == part.commitment
    payload = json.loads(text)
    whole = resolve(payload, {1: json.loads(part.text or "")}, {1})
    assert canonical(whole) == canonical({"kept": [1, {"deep": value}], "plain": 2.5})
    assert resolve(payload, {}, set())["kept"][1] == {"deep": {"$erased": part.commitment}}


@pytest.mark.parametrize("odd", [1 << 70, -(1 << 64), "\ud800"])
def test_what_one_encoder_cannot_write_the_other_does_and_no_part_counts_twice(odd):
    text, parts = separate({"a": Erasable("query"), "b": [odd, 1e-7], "c": Erasable({"odd": odd})})
    assert [(part.number, part.text) for part in parts] == [(1, '"query"'), (2, canonical({"odd": odd}))]
    assert json.loads(text)["b"] == [odd, 1e-7]
    assert {json.loads(text)[key]["$commitment"] for key in "ac"} == {part.commitment for part in parts}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": [1.0, {"b": float("nan")}]}, "payload.a[1].b"),
        ({"a": float("inf")}, "payload.a"),
        ({1: "x"}, "payload"),
        ({"a": b"bytes"}, "payload.a"),
        ({"a": 1 << 5000}, "payload.a"),
        ({"a": Erasable(1)}, "payload.a"),
    ],
)
def test_what_is_not_json_is_refused_by_name(value, field):
    with pytest.raises(InputError) as refused:
        canonical(value)
    assert refused.value.field == field


@pytest.mark.parametrize("key", ["$commitment", "$part", "$erased"])
def test_a_payload_cannot_pass_for_a_commitment(key):
    with pytest.raises(InputError, match=r"payload\.a"):
        separate({"a": {key: 1}})
    (part,) = separate({"a": Erasable({key: 1})})[1]  # within an erasable value it means nothing
    assert part.text == canonical({key: 1})


def test_bottomless_nesting_is_refused():
    value: object = 1
    for _ in range(10_000):
        value = [value]
    with pytest.raises(InputError, match="nested"):
        canonical(value)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_the_log_proves_what_it_holds(tmp_path_factory, batches, data):
    with AuditLog.open(tmp_path_factory.mktemp("log") / "audit.sqlite", durability="process") as log:
        ids, roots = [], {0: log.root()}
        for batch in batches:
            ids += log.append_many([AuditEvent("decision", payload={"n": len(ids) + i}) for i in range(batch)])
            roots[log.size] = log.root()
        leaves = [log.get(event_id).body.encode() for event_id in ids]
        assert log.size == len(ids) == sum(batches)
        assert log.root() == mth(leaves)
        old, new = sorted(data.draw(st.tuples(*[st.sampled_from(sorted(roots))] * 2)))
        assert verify_consistency(old, roots[old], new, roots[new], log.consistency_proof(old, new))
        index = data.draw(st.integers(0, len(ids) - 1))
        size = data.draw(st.integers(index + 1, len(ids)))
        proof = log.inclusion_proof(ids[index], size)
        assert verify_inclusion(leaf_hash(leaves[index]), index, size, proof.path, log.root(size))
        assert log.verify().ok
