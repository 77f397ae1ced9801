"""From verdicts on access classes to bitmaps over rows, and the second wall before anything surfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lir_agents.arrays import RowMask
from lir_agents.policy.base import AccessScope

__all__ = ["recheck", "scope_mask"]


def scope_mask(
    scope: AccessScope, access_class_column: NDArray[np.int32], access_classes: Mapping[int, str]
) -> RowMask:
    """The passages that a scope may read.

    One verdict per access class, one table lookup per row: O(classes) questions and O(rows) bytes. The mask is
    kept with the policy object for the next search under the same cache key, as long as the very same column
    comes back; a column that is still writable may change under the cache and is therefore never kept.

    Args:
        scope: From `policy.authorize`.
        access_class_column: int32 [max_row + 1], the access class of each row, -1 where there is no row.
        access_classes: Class to access key. A class that it lacks is readable by nobody.

    Returns:
        bool [max_row + 1], read-only.

    Raises:
        AccessDenied: The policy failed or did not answer in time.
    """
    key = (scope.cache_key, id(access_class_column))
    kept = scope.masks.get(key)
    if kept is not None and kept[0] is access_class_column and kept[1] == access_classes:
        known: RowMask = kept[2]
        return known
    ids = np.fromiter(access_classes.keys(), dtype=np.int64, count=len(access_classes))
    verdicts = scope.allows_many(list(access_classes.values()))
    mask = _spread(access_class_column, ids, verdicts)
    mask.setflags(write=False)
    if not access_class_column.flags.writeable:
        scope.masks.put(key, (access_class_column, dict(access_classes), mask))
    return mask


def _spread(column: NDArray[np.int32], ids: NDArray[np.int64], verdicts: NDArray[np.bool_]) -> RowMask:
    # table[class + 1]; its first entry stands for "no row", its last for classes that nobody told us of. take's
    # "clip" sends everything out of range to one of the two, and both are False.
    named = ids >= 0
    top = int(ids.max(initial=-1))
    table = np.zeros(top + 3, dtype=np.bool_)
    table[ids[named] + 1] = verdicts[named]
    return np.asarray(table.take(column.astype(np.int64) + 1, mode="clip"), dtype=np.bool_)


def recheck(scope: AccessScope, classes_now: Sequence[int | None], access_classes: Mapping[int, str]) -> list[bool]:
    """Asks the policy as it is at this moment about each passage that would surface.

    The principal is authorised afresh, so that a grant revoked, a policy changed or a document reclassified
    since the search began counts. Nothing remembered from before is used once the policy's epoch has moved,
    because the epoch is part of the cache key.

    Args:
        scope: The scope under which the search ran.
        classes_now: For each passage its access class as the catalog has it now; None where the passage is
            gone.
        access_classes: Class to access key, as the catalog has it now.

    Returns:
        One verdict per passage, in order.

    Raises:
        AccessDenied: The principal may no longer ask at all, or the policy cannot say.
    """
    fresh = scope.policy.authorize(scope.principal, scope.action)
    keys = [None if number is None else access_classes.get(number) for number in classes_now]
    distinct = [key for key in dict.fromkeys(keys) if key is not None]
    verdicts = dict(zip(distinct, fresh.allows_many(distinct).tolist(), strict=True))
    return [key is not None and verdicts[key] for key in keys]
