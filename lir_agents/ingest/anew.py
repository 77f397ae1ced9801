"""Passages as they were prepared when they were added, made again from what the catalog keeps."""

from __future__ import annotations

from collections.abc import Iterator

from lir_agents.arrays import Rows
from lir_agents.ingest.compose import Composer
from lir_agents.ingest.outline import Outline
from lir_agents.ingest.writing import PreparedPassage, prepare_passage
from lir_agents.stores.catalog import Catalog
from lir_agents.types import Passage

__all__ = ["prepared_anew"]


def prepared_anew(catalog: Catalog, composer: Composer, rows: Rows) -> Iterator[tuple[Passage, PreparedPassage]]:
    """Each passage of `rows` with what is encoded of it and what BM25 reads. Rows that are gone are left out.

    Rows of one document lie together, so that its outline is read once.
    """
    read: tuple[str, int] | None = None
    outline = Outline((), ())
    for passage in catalog.passages(rows):
        if read != (passage.document_id, passage.version):
            read = (passage.document_id, passage.version)
            document = catalog.document(*read)
            outline = Outline.of(document.text) if document else Outline((), ())
        headings = outline.above(passage.start)
        yield passage, prepare_passage(composer, passage.title, headings, passage.text)
