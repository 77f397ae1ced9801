"""The Merkle tree of RFC 6962: hashes, proofs and their verification. Standard library only.

Whoever holds a checkpoint can check a proof with this one file::

    leaf:  SHA-256(0x00 || entry)          node:  SHA-256(0x01 || left || right)

The tree over n entries splits at the largest power of two below n. A subtree over 2^level entries that is
full never changes again: only these are stored, in the order in which they become full, so that a log of n
entries has ``2n - popcount(n)`` stored nodes, an append writes two on average, and every root and proof is
read from O(log n) of them.

Source: RFC 6962 section 2.1 (trees, proofs), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (verification).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

__all__ = [
    "EMPTY_ROOT",
    "consistency_path",
    "extend",
    "frontier_positions",
    "inclusion_path",
    "leaf_hash",
    "node_count",
    "node_hash",
    "node_position",
    "range_hash",
    "root_of_frontier",
    "verify_consistency",
    "verify_inclusion",
]

Hash = bytes
ReadNode = Callable[[int], Hash]
"""Returns the stored node at a position (see `node_position`)."""

EMPTY_ROOT: Hash = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> Hash:
    """SHA-256(0x00 || entry), 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# ------------------------------------------------------------------ where full subtrees are stored


def node_count(size: int) -> int:
    """How many full subtrees a tree of `size` entries has, single entries included."""
    return 2 * size - size.bit_count()


def node_position(level: int, index: int) -> int:
    """Where the full subtree over entries [index * 2^level, (index + 1) * 2^level) is stored, from 0.

    It becomes full with its last entry: after all nodes of the entries before, and after the `level` smaller
    subtrees that the same entry completes.
    """
    last = ((index + 1) << level) - 1
    return node_count(last) + level


def extend(frontier: list[Hash], index: int, leaf: Hash) -> list[Hash]:
    """Adds entry number `index` to a frontier in place.

    Args:
        frontier: Roots of the full subtrees that make up the tree, largest first; popcount(index) of them.
        index: Number of entries so far.
        leaf: The new entry's leaf hash.

    Returns:
        The nodes that became full, in storage order; the first belongs at ``node_count(index)``.
    """
    full = [leaf]
    while index & 1:
        full.append(node_hash(frontier.pop(), full[-1]))
        index >>= 1
    frontier.append(full[-1])
    return full


def frontier_positions(size: int) -> list[int]:
    """Storage positions of the full subtrees that make up a tree of `size` entries, largest first."""
    return _full_subtrees(0, size)


def root_of_frontier(frontier: Sequence[Hash]) -> Hash:
    """The tree's root from the roots of its full subtrees, largest first."""
    if not frontier:
        return EMPTY_ROOT
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


def _full_subtrees(start: int, stop: int) -> list[int]:
    positions = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        positions.append(node_position(level, start >> level))
        start += 1 << level
    return positions


def range_hash(read: ReadNode, start: int, stop: int) -> Hash:
    """The hash of the subtree over entries [start, stop), where such a subtree exists in the tree."""
    return root_of_frontier([read(position) for position in _full_subtrees(start, stop)])


def _split(start: int, stop: int) -> int:
    return start + (1 << ((stop - start - 1).bit_length() - 1))


# ------------------------------------------------------------------ proofs


def inclusion_path(read: ReadNode, index: int, size: int) -> list[Hash]:
    """The audit path of entry `index` in the tree of `size` entries (0 <= index < size), leaf to root."""
    start, stop, path = 0, size, []
    while stop - start > 1:
        split = _split(start, stop)
        if index < split:
            path.append(range_hash(read, split, stop))
            stop = split
        else:
            path.append(range_hash(read, start, split))
            start = split
    return path[::-1]


def consistency_path(read: ReadNode, old_size: int, new_size: int) -> list[Hash]:
    """The proof that the tree of `old_size` entries is a prefix of that of `new_size` (0 <= old <= new)."""
    if old_size == 0:
        return []
    start, stop, path = 0, new_size, []
    while stop != old_size:
        split = _split(start, stop)
        if old_size <= split:
            path.append(range_hash(read, split, stop))
            stop = split
        else:
            path.append(range_hash(read, start, split))
            start = split
    if start:
        path.append(range_hash(read, start, stop))
    return path[::-1]


# ------------------------------------------------------------------ verification


def verify_inclusion(leaf: Hash, index: int, size: int, path: Sequence[Hash], root: Hash) -> bool:
    """Whether `path` proves that entry `index` of the tree of `size` entries with this root is `leaf`.

    Args:
        leaf: Leaf hash of the entry, 32 bytes.
        index: The entry's number, from 0.
        size: Entries in the tree.
        path: Siblings from leaf to root, 32 bytes each.
        root: The tree's root, from a checkpoint that you trust.
    """
    if not 0 <= index < size:
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, old_root: Hash, new_size: int, new_root: Hash, path: Sequence[Hash]) -> bool:
    """Whether `path` proves that the old tree is a prefix of the new one: nothing edited, nothing removed."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size in (0, new_size):
        same = old_root == (EMPTY_ROOT if old_size == 0 else new_root)
        return same and not path and (new_size > 0 or new_root == EMPTY_ROOT)
    hashes = list(path)
    if old_size.bit_count() == 1:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root
