"""Text to token ids with character offsets, on the Rust tokenizer directly.

Truncation and padding live in this house and not in the tokenizer, whose state is therefore never changed
after construction: any number of threads may share it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lir_agents.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Encoding as RustEncoding

__all__ = ["Pieces", "TextTokenizer", "mend"]

_SURROGATES = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"\s")
_BLOCK_CHARS = 20_000
_CHARS_PER_TOKEN = 16
"""How many characters per token are looked at first when only the head or tail of a long text is wanted."""


def mend(text: str) -> str:
    """Replaces lone surrogates, which no UTF-8 can carry, by U+FFFD; offsets stay as they are."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens of one text without special tokens.

    Attributes:
        ids: int64 [n].
        spans: int32 [n, 2], character offsets (start, end).
    """

    ids: NDArray[np.int64]
    spans: NDArray[np.int32]


class TextTokenizer:
    """A fast tokenizer and the special tokens it puts around one text, or between two.

    Args:
        path: A `tokenizer.json`.
        lower_case: Lower-case the text first, as `do_lower_case` of a sentence-transformers checkpoint asks.

    Raises:
        InputError: The file is not a tokenizer.

    Attributes:
        prefix: Ids before the text ([CLS]).
        separator: Ids between two texts ([SEP]).
        suffix: Ids after the last text ([SEP]).
    """

    def __init__(self, path: Path, *, lower_case: bool = False) -> None:
        from tokenizers import Tokenizer, normalizers

        try:
            self._rust = Tokenizer.from_file(str(path))
        except Exception as error:
            raise InputError(f"{path} is no tokenizer: {error}", field="encoder") from error
        self._rust.no_truncation()
        self._rust.no_padding()
        if lower_case:
            steps = [normalizers.Lowercase()] + ([self._rust.normalizer] if self._rust.normalizer else [])
            self._rust.normalizer = normalizers.Sequence(steps)
        self.prefix, self.separator, self.suffix = self._special_ids()

    def _special_ids(self) -> tuple[list[int], list[int], list[int]]:
        """Reads the template off one encoded pair: what stands before, between and after the two texts."""
        pair = self._rust.encode("a", "a")
        owner = pair.sequence_ids
        first, second = owner.index(0), owner.index(1)
        end_first = max(i for i, sequence in enumerate(owner) if sequence == 0) + 1
        end_second = max(i for i, sequence in enumerate(owner) if sequence == 1) + 1
        return pair.ids[:first], pair.ids[end_first:second], pair.ids[end_second:]

    @property
    def overhead(self) -> int:
        """Special tokens around a single text."""
        return len(self.prefix) + len(self.suffix)

    def heads(self, texts: Sequence[str], limit: int) -> list[Pieces]:
        """The first `limit` tokens of each text, without reading much more of it than that."""
        whole = [mend(text) for text in texts]
        cut = [_head(text, limit * _CHARS_PER_TOKEN) for text in whole]
        encoded = [self._encode(cut[0])] if len(cut) == 1 else self._encode_many(cut)
        for i, pieces in enumerate(encoded):
            if len(pieces.ids) < limit and len(cut[i]) < len(whole[i]):
                encoded[i] = self._encode(whole[i])
        return [Pieces(pieces.ids[:limit], pieces.spans[:limit]) for pieces in encoded]

    def tail(self, text: str, limit: int) -> NDArray[np.int64]:
        """Ids of the last `limit` tokens of a text, int64 [<= limit]."""
        if limit <= 0 or not text:
            return np.empty(0, np.int64)
        whole = mend(text)
        cut = _tail(whole, limit * _CHARS_PER_TOKEN)
        ids = self._encode(cut).ids
        if len(ids) < limit and len(cut) < len(whole):
            ids = self._encode(whole).ids
        return ids[-limit:]

    def spans(self, text: str, *, block_chars: int = _BLOCK_CHARS) -> list[tuple[int, int]]:
        """Character offsets of all tokens of a text of any length, without special tokens.

        Long texts are cut at white space into blocks of about `block_chars` that are tokenised in parallel.
        """
        text = mend(text)
        starts = list(_block_starts(text, block_chars))
        blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        spans: list[tuple[int, int]] = []
        for start, encoded in zip(starts, self._rust.encode_batch(blocks, add_special_tokens=False), strict=True):
            if start:
                spans.extend((a + start, b + start) for a, b in encoded.offsets)
            else:
                spans.extend(encoded.offsets)
        return spans

    def _encode(self, text: str) -> Pieces:
        return _pieces(self._rust.encode(text, add_special_tokens=False))

    def _encode_many(self, texts: list[str]) -> list[Pieces]:
        return [_pieces(encoded) for encoded in self._rust.encode_batch(texts, add_special_tokens=False)]


def _pieces(encoded: RustEncoding) -> Pieces:
    spans = np.array(encoded.offsets, dtype=np.int32).reshape(-1, 2)
    return Pieces(np.array(encoded.ids, dtype=np.int64), spans)


def _head(text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    space = _SPACE.search(text, chars)
    return text[: space.start()] if space else text


def _tail(text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    space = _SPACE.search(text, len(text) - chars)
    return text[space.start() :] if space else text


def _block_starts(text: str, block_chars: int) -> Iterator[int]:
    """Offsets at which blocks begin: 0, and white space at least `block_chars` after the last beginning."""
    start = 0
    while True:
        yield start
        space = _SPACE.search(text, start + block_chars) if len(text) - start > 2 * block_chars else None
        if space is None:
            return
        start = space.start()
