"""Documents of other libraries, as ours. Objects are recognised by their shape, so no framework is imported.

Where things come from:

=============  ==========================================================================================
`id`           LangChain `id`; LlamaIndex `node_id`; `id` or `_id` of a mapping; else derived from the content
`title`        `title` of a mapping, else ``metadata["title"]``
`source_uri`   `source_uri` or `url` of a mapping, else ``metadata["source_uri"]``, ``["url"]``, ``["source"]``
`source`       `source` of a mapping, else ``metadata["source"]``, else the `ref_doc_id` of a LlamaIndex node
`acl`          `acl` of a mapping, else ``metadata["acl"]``, which leaves the metadata: it says who may read, and
               is nothing to search by
=============  ==========================================================================================

Metadata is flattened: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``, None is left out (also in lists), dates and
times become ISO 8601 text, enums their value, paths and UUIDs text, NumPy scalars Python ones. Anything else is
an `InputError` that names the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from lir_agents.bounds import require_writable
from lir_agents.errors import InputError
from lir_agents.ingest.normalise import mend_surrogates, normalise_line, normalise_text
from lir_agents.stores.attributes import validate_metadata
from lir_agents.types import Document

__all__ = ["content_sha256", "convert", "normalised", "to_document", "with_id"]

_DEEPEST: Final = 16
_LONGEST_ID: Final = 2_000
_LONGEST_LINE: Final = 8_000
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def to_document(obj: object, *, id_key: bytes = b"") -> Document:
    """Any document-like object as a normalised `Document` with an id.

    Args:
        obj: A `Document`, a LangChain `Document`, a LlamaIndex node, document or scored node, or a mapping with
            `text`.
        id_key: See `with_id`.

    Raises:
        InputError: It is none of these, or something in it cannot be stored; `field` says what.
    """
    return with_id(normalised(convert(obj)), id_key)


def convert(obj: object) -> Document:
    """Any document-like object as a `Document`, its text as it was.

    Raises:
        InputError: See `to_document`.
    """
    if isinstance(obj, Document):
        return dataclasses.replace(obj, metadata=_flat(obj.metadata))
    if isinstance(obj, Mapping):
        return _from_mapping(obj)
    node = getattr(obj, "node", obj)  # LlamaIndex: NodeWithScore
    if callable(getattr(node, "get_content", None)) and isinstance(getattr(node, "metadata", None), Mapping):
        return _from_node(node)
    if isinstance(getattr(obj, "page_content", None), str):
        return _build(obj.page_content, getattr(obj, "id", None), getattr(obj, "metadata", None))  # type: ignore[attr-defined]
    raise InputError(
        f"is {type(obj).__name__}",
        field="document",
        remedy="Pass a Document, a LangChain or LlamaIndex document, or a mapping with text.",
    )


def normalised(document: Document) -> Document:
    """The document with normalised text and title, checked to be storable.

    Raises:
        InputError: A field is too long or holds what no index can carry.
    """
    for field in ("id", "source", "source_uri"):
        value = getattr(document, field)
        _require_plain(value, field, _LONGEST_ID if field == "id" else _LONGEST_LINE)
    for grant in document.acl or ():
        _require_plain(grant, "acl", _LONGEST_LINE)
    if not isinstance(document.title, str):
        raise InputError(f"is {type(document.title).__name__}", field="title", remedy="Pass a string.")
    title = normalise_line(document.title)
    if len(title) > _LONGEST_LINE:
        raise InputError(f"has {len(title):,} characters", field="title", remedy="Move it into the text.")
    validate_metadata(document.metadata)
    return dataclasses.replace(document, text=normalise_text(document.text), title=title)


def with_id(document: Document, key: bytes = b"") -> Document:
    """The document itself, or with the id `sha256:<hex>` derived from all of its content.

    Everything counts, not the text alone: two documents of equal text and different ACLs are two documents.

    Args:
        document: As it is stored, or as it came.
        key: Of the index, see `Catalog.id_key`. With one the id is an HMAC: whoever may read a document is told its
            id, and could else try out by it who else may, or what stood where something was redacted.
    """
    if document.id is not None:
        return document
    acl = None if document.acl is None else sorted(set(document.acl))
    data = _canonical(document, acl)
    digest = hmac.new(key, data, hashlib.sha256) if key else hashlib.sha256(data)
    return dataclasses.replace(document, id=f"sha256:{digest.hexdigest()}")


def content_sha256(document: Document) -> str:
    """Hex sha256 over everything that a reader is told but the id: text, title, provenance and metadata.

    Of the ACL it says nothing: a reader could try out by it who else may read the document.
    """
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: Document, *more: Any) -> bytes:
    told = [document.text, document.title, document.source_uri, document.source, *more, dict(document.metadata)]
    return json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _from_mapping(given: Mapping[Any, Any]) -> Document:
    if "text" not in given:
        raise InputError("is missing", field="text", remedy='Give each document a "text".')
    metadata = given.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InputError(f"is {type(metadata).__name__}", field="metadata", remedy="Pass an object.")
    extra = {
        name: given[name] for name in ("title", "source", "source_uri", "url", "acl") if given.get(name) is not None
    }
    return _build(given["text"], given.get("id", given.get("_id")), metadata, extra)


def _from_node(node: Any) -> Document:
    document = _build(node.get_content(), getattr(node, "node_id", None), node.metadata)
    reference = getattr(node, "ref_doc_id", None)
    if document.source or not isinstance(reference, str):
        return document
    return dataclasses.replace(document, source=reference)


def _build(text: Any, id: Any, metadata: Any, given: Mapping[str, Any] | None = None) -> Document:
    """Puts a document together; what is `given` outside of the metadata wins."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InputError(f"is {type(metadata).__name__}", field="metadata", remedy="Pass a mapping.")
    rest = dict(metadata or {})
    acl = rest.pop("acl", None)
    given = given or {}
    if acl is not None and given.get("acl") not in (None, acl):
        raise InputError("differs from metadata.acl", field="acl", remedy="Give the ACL once.")
    acl = given.get("acl", acl)
    if acl is not None and not isinstance(acl, str | list | tuple | set | frozenset):
        raise InputError(f"is {type(acl).__name__}", field="acl", remedy="Pass a list of strings.")
    rest = _flat(rest)
    require_writable(id, "id")
    return Document(
        text=text,
        id=str(id) if isinstance(id, int | UUID) and not isinstance(id, bool) else id,
        title=_first(given.get("title"), rest.get("title")),
        source_uri=_first(
            *(found.get(key) for found in (given, rest) for key in ("source_uri", "url")), rest.get("source")
        ),
        source=_first(given.get("source"), rest.get("source")),
        acl=sorted(acl) if isinstance(acl, set | frozenset) else acl,
        metadata=rest,
    )


def _first(*candidates: Any) -> str:
    return next((value for value in candidates if isinstance(value, str) and value), "")


def _flat(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    if not isinstance(metadata, Mapping):
        raise InputError(f"is {type(metadata).__name__}", field="metadata", remedy="Pass a mapping.")
    for key, value in _leaves(metadata, "", _DEEPEST):
        if key in flat:
            raise InputError(
                "comes twice once nested keys are joined", field=f"metadata.{key}", remedy="Rename one."
            )
        flat[key] = value
    return flat


def _leaves(metadata: Mapping[Any, Any], prefix: str, deepest: int) -> Iterator[tuple[str, Any]]:
    if not deepest:
        raise InputError(f"is nested more than {_DEEPEST} deep", field="metadata", remedy="Flatten it.")
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise InputError(f"has the key {key!r}", field="metadata", remedy="Use strings as keys.")
        name = prefix + mend_surrogates(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name + ".", deepest - 1)
        elif isinstance(value, list | tuple | set | frozenset):
            items = [_scalar(item) for item in value if item is not None]
            yield name, sorted(items, key=repr) if isinstance(value, set | frozenset) else items
        elif value is not None:
            yield name, _scalar(value)


def _scalar(value: Any) -> Any:
    """A value in the words that metadata knows; what it does not know is left for `validate_metadata` to refuse."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return mend_surrogates(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID | PurePath):
        return str(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _require_plain(value: Any, field: str, longest: int) -> None:
    if value is None and field == "id":
        return
    if not isinstance(value, str):
        raise InputError(f"is {type(value).__name__}", field=field, remedy="Pass a string.")
    if len(value) > longest:
        raise InputError(
            f"has {len(value):,} characters, at most {longest:,} are kept", field=field, remedy="Shorten it."
        )
    if found := _CONTROL.search(value):
        raise InputError(
            f"holds the control character or half surrogate {found.group()!r}", field=field, remedy="Remove it."
        )
