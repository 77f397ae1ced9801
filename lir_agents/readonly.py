"""A mapping that nobody can change, and that everything which takes a dict can take."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["ReadOnly"]


class ReadOnly(dict[str, Any]):
    """A dict that refuses to be changed.

    Unlike `types.MappingProxyType` it can be pickled, copied deeply and written as JSON: what holds one travels to
    worker processes, task queues and logs.
    """

    __slots__ = ()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping cannot be changed; make a dict of it")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[ReadOnly], tuple[dict[str, Any]]]:
        return ReadOnly, (dict(self),)
