"""Explanations of hits, made when somebody asks: from the stored vectors that the score was computed from."""

from __future__ import annotations

import numpy as np

from lir_agents.encoding.asking import encoded_documents, encoded_queries
from lir_agents.encoding.base import QueryText
from lir_agents.errors import InputError, IntegrityError
from lir_agents.graph.rooms import Rooms
from lir_agents.ingest.outline import Outline
from lir_agents.ranking.explain import Explanation, explain_matches
from lir_agents.ranking.kernels import similarities
from lir_agents.types import Hit

__all__ = ["explain_hit"]


def explain_hit(rooms: Rooms, hit: Hit) -> Explanation:
    """Which query tokens met which words of the hit's passage.

    The similarities are those of the stored vectors; only the offsets of the words are computed anew. Token
    weights depend on what the search was allowed to see and are not recomputed: contributions are shares of the
    plain mean.

    Nothing is said about a passage whose text the hit does not hold: whoever may not read it learns nothing by
    making up a hit.

    Raises:
        InputError: The passage is gone (erased since), or is not the hit's.
        IntegrityError: The stored vectors do not fit the passage's text, or the encoder gave none.
    """
    known = isinstance(hit.row, int) and 0 <= hit.row < len(rooms.catalog.snapshot().committed)
    rows = np.array([hit.row] if known else [], np.int64)
    passages = rooms.catalog.passages(rows)
    if not passages or (passages[0].passage_id, passages[0].text) != (hit.passage_id, hit.text):
        raise InputError("is of no passage that is here", field="hit", remedy="Search again.")
    passage = passages[0]
    packed = rooms.tokens.gather(rows)
    document = rooms.catalog.document(passage.document_id, passage.version)
    headings = Outline.of(document.text).above(passage.start) if document else ()
    composed = rooms.composer.compose(passage.title, headings, passage.text)
    ((_, encoding),) = encoded_documents(rooms.encoder, [composed.text])
    if len(encoding.spans) != packed.lengths[0]:
        raise IntegrityError(
            f"Passage {hit.passage_id} has {packed.lengths[0]} stored vectors and {len(encoding.spans)} tokens.",
            remedy="Run `lir doctor`.",
        )
    (query,) = encoded_queries(rooms.encoder, [QueryText(hit.query)])
    return explain_matches(
        query=hit.query,
        query_spans=query.spans,
        similarity=similarities(query.tokens, packed).T,
        weights=np.ones(len(query.tokens), np.float32),
        encoded=composed.text,
        passage_spans=encoding.spans,
        prefix_length=composed.body_start,
    )
