"""PDF to text, page by page. Runs in the parsing process (`parse_worker`)."""

from __future__ import annotations

import io

from lir_agents.errors import InputError

__all__ = ["pdf_to_text"]

_MOST_PAGES = 20_000


def pdf_to_text(data: bytes, *, max_chars: int) -> tuple[str, str]:
    """Reads the text layer of a PDF.

    Args:
        data: The file.
        max_chars: Longest text, in characters.

    Returns:
        Title ("" if there is none) and text, pages set apart by blank lines.

    Raises:
        InputError: The file is damaged, encrypted, without text, or too long.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    page = 0
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError("is encrypted", field="file", remedy="Save it without a password.")
        if len(reader.pages) > _MOST_PAGES:
            raise InputError(f"has more than {_MOST_PAGES:,} pages", field="file", remedy="Split it.")
        title = reader.metadata.title if reader.metadata else None
        texts: list[str] = []
        chars = 0
        for page, content in enumerate(reader.pages, start=1):  # noqa: B007 - named in the error below
            texts.append(content.extract_text())
            chars += len(texts[-1])
            if chars > max_chars:
                raise InputError(
                    f"holds more than {max_chars:,} characters",
                    field="text",
                    remedy="Split it, or raise ingest.max_document_chars.",
                )
    except InputError:
        raise
    except (PyPdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        # What pypdf raises on damaged files is not confined to its own errors.
        place = f" after page {page}" if page else ""
        raise InputError(
            f"is damaged{place}: {type(error).__name__}: {error}"[:300],
            field="file",
            remedy="Repair or re-export it.",
        ) from error
    text = "\n\n".join(part for part in texts if part.strip())
    if not text:
        raise InputError("holds no text", field="file", remedy="Is it a scan? Run text recognition on it first.")
    return " ".join(str(title or "").split()), text
