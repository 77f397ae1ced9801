"""Which file of an index directory is which, and whether a directory is an index at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lir_agents.errors import InputError, IntegrityError, StoreError
from lir_agents.stores.schema import check_file

__all__ = ["IndexLayout"]


@dataclass(frozen=True, slots=True)
class IndexLayout:
    """Names the files of an index. Constructing one touches nothing.

    Args:
        path: The index directory.
    """

    path: Path

    @property
    def catalog(self) -> Path:
        """The truth; everything but this, `audit` and `memory` can be rebuilt from it."""
        return self.path / "catalog.sqlite"

    @property
    def tokens(self) -> Path:
        """Token matrices and pooled vectors (derived)."""
        return self.path / "tokens.lmdb"

    @property
    def vectors(self) -> Path:
        """Chroma's directory (derived)."""
        return self.path / "chroma"

    @property
    def lexical(self) -> Path:
        """The lexical index (derived)."""
        return self.path / "lexical.lmdb"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.path / "audit.sqlite"

    @property
    def memory(self) -> Path:
        """What conversations have said, where it is kept on disk."""
        return self.path / "memory.sqlite"

    @property
    def lock(self) -> Path:
        """The lock file of the owner."""
        return self.path / "lock"

    def state(self) -> Literal["absent", "empty", "index"]:
        """Looks at the directory and changes nothing.

        Returns:
            "absent" where there is no such directory, "empty" where there is but nothing was ever ingested,
            "index" where there is a catalog of the right format.

        Raises:
            InputError: The path is a file, or a directory that holds something else.
            IntegrityError: An index without its catalog, or with a truncated, foreign, newer or older one.
            StoreError: The directory cannot be read.
        """
        try:
            return self._state()
        except OSError as error:
            raise StoreError(
                f"{self.path}: {error.strerror or error}",
                store="index",
                operation="open",
                remedy="Check that the path exists and that this user may read it.",
            ) from error

    def prepare(self, *, create: bool = True) -> Literal["new", "existing"]:
        """Makes the directory where it is absent and may be created; see `state` for what is refused.

        Returns:
            "new" where a catalog is yet to be made, else "existing".

        Raises:
            InputError: As `state`; or there is no index and none is to be created.
        """
        state = self.state()
        if state == "index":
            return "existing"
        if not create:
            raise InputError(
                f"{self.path} holds no index",
                field="path",
                remedy="Ingest something first, or name the directory of an index.",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path}: {error.strerror or error}",
                store="index",
                operation="create",
                remedy="Check that its parent is a directory this user may write to.",
            ) from error
        return "new"

    def _state(self) -> Literal["absent", "empty", "index"]:
        name = str(self.path)
        if "\0" in name or name.encode("utf-8", "ignore").decode() != name:  # LMDB and Chroma take no other
            what = "holds a NUL, or bytes that are no UTF-8"
            raise InputError(f"{name!a:.200} {what}", field="path", remedy="Name another directory.")
        if not self.path.exists():
            if self.path.is_symlink():
                raise InputError(f"{self.path} is a dangling link", field="path", remedy="Name a directory.")
            return "absent"
        if not self.path.is_dir():
            raise InputError(
                f"{self.path} is a file", field="path", remedy="Name a directory; an index is a directory."
            )
        if self.catalog.is_file():
            check_file(self.catalog)
            return "index"
        self._require_nothing_else()
        return "empty"

    def _require_nothing_else(self) -> None:
        """Refuses a directory without a catalog that holds more than an interrupted creation leaves."""
        draft = self.catalog.name + ".new"
        found = (entry.name for entry in self.path.iterdir())
        names = sorted(name for name in found if name != self.lock.name and not name.startswith(draft))
        ours = {
            path.name for path in (self.catalog, self.tokens, self.vectors, self.lexical, self.audit, self.memory)
        }
        if any(name in ours or name.startswith(self.catalog.name) for name in names):
            raise IntegrityError(
                f"{self.path} is an index that has lost its catalog ({self.catalog.name}).",
                remedy="Restore that file from a backup, or move the directory away and ingest again.",
            )
        if names:
            raise InputError(
                f"{self.path} is no index: it holds {names[0]!r}" + (" and more" if len(names) > 1 else ""),
                field="path",
                remedy="Name an empty or a new directory; this one was left as it is.",
            )
