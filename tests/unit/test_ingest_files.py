"""Files and folders as documents."""

import json
import os

import pytest

from lir_agents import Document, Failure
from lir_agents.config import IngestSettings
from lir_agents.ingest.files import read_sources
from lir_agents.ingest.outline import Outline


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF of one text line per page, written by hand."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>"
    )
    return data + f"{tail}\nstartxref\n{len(data)}\n%%EOF".encode()


def read(*paths, **settings):
    skipped = []
    found = list(
        read_sources(paths, settings=IngestSettings(**settings), on_skip=lambda *what: skipped.append(what))
    )
    documents = {item.id: item for item in found if isinstance(item, Document)}
    failures = {item.id: item.reason for item in found if isinstance(item, Failure)}
    assert len(documents) + len(failures) == len(found)
    return documents, failures, dict(skipped)


def test_a_folder_is_read_recursively_with_relative_ids(tmp_path):
    handbook = tmp_path / "handbook"
    (handbook / "guide" / "deep").mkdir(parents=True)
    (handbook / "guide" / "leave.md").write_text("# Parental *leave*\n\nText.")
    (handbook / "guide" / "deep" / "pay_day.TXT").write_text("Text.")
    (handbook / "a page.html").write_text("<title>Page</title><p>Text.")
    (handbook / "paper.pdf").write_bytes(pdf("First page", "Second page", title="A paper"))
    documents, failures, skipped = read(handbook)
    assert not failures
    assert not skipped
    titles = {id: document.title for id, document in documents.items()}
    assert titles == {
        "a page.html": "Page",
        "guide/deep/pay_day.TXT": "pay day",
        "guide/leave.md": "Parental leave",
        "paper.pdf": "A paper",
    }
    assert list(documents) == sorted(documents)
    assert documents["a page.html"].source_uri == "a%20page.html"
    assert {document.source for document in documents.values()} == {"handbook"}
    assert documents["paper.pdf"].text == "First page\n\nSecond page"


def test_html_keeps_what_a_reader_sees(tmp_path):
    (tmp_path / "page.html").write_text(
        "<html><head><title> The\n page </title><style>p {}</style></head><body><nav>Menu</nav>"
        "<h1>Leave</h1><p>One <b>bold</b> word.<br>Next &amp; last</p><ul><li>first<li>second</ul>"
        "<table><tr><td>a<td>b<tr><td>c<td>d</table><pre>  x = 1\n  y</pre>"
        "<script>evil()</script><h2>Sick leave</h2>tail<template>no</template></body></html>"
    )
    document = read(tmp_path / "page.html")[0]["page.html"]
    assert document.title == "The page"
    assert document.text == (
        "# Leave\n\nOne bold word.\nNext & last\n\n- first\n- second\n\na | b\nc | d\n\n"
        "```\n  x = 1\n  y\n```\n\n## Sick leave\n\ntail"
    )
    assert [heading.path for heading in Outline.of(document.text).headings] == [("Leave",), ("Leave", "Sick leave")]


def test_html_in_a_declared_encoding(tmp_path):
    (tmp_path / "old.htm").write_bytes('<meta charset="iso-8859-1"><p>caf\xe9'.encode("latin-1"))
    (tmp_path / "bad.htm").write_bytes(b"<p>caf\xe9")
    documents, failures, _ = read(tmp_path)
    assert documents["old.htm"].text == "café"
    assert "byte 6" in failures["bad.htm"]


def test_front_matter_gives_title_and_metadata(tmp_path):
    (tmp_path / "note.md").write_text(
        '---\ntitle: "From the front"\nauthor: Ann\ntags: [a, b]\nnested:\n  key: value\n---\n# Heading\n\nText.'
    )
    document = read(tmp_path)[0]["note.md"]
    assert (document.title, document.metadata) == ("From the front", {"author": "Ann"})
    assert document.text == "# Heading\n\nText."


def test_a_line_of_dashes_is_no_front_matter(tmp_path):
    (tmp_path / "note.md").write_text("---\nno end\n\n# Heading")
    document = read(tmp_path)[0]["note.md"]
    assert document.text.startswith("---\nno end")
    assert document.title == "Heading"


def test_jsonl_reports_bad_lines_and_goes_on(tmp_path):
    lines = [
        json.dumps({"id": "one", "text": "first", "url": "https://example.org/1"}),
        "",
        "{broken",
        json.dumps(["a", "list"]),
        json.dumps({"_id": "two", "text": "second", "metadata": {"acl": ["a"], "k": None}}),
        json.dumps({"_id": "three", "acl": "not a list", "text": "x"}),
        "[" * 100_000,
        '{"text": "number", "metadata": {"n": ' + "1" * 5000 + "}}",
        json.dumps({"_id": "last", "text": "x" * 5_000_000}),
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    documents, failures, _ = read(tmp_path)
    assert list(documents) == ["one", "two", "last"]
    assert documents["one"].source_uri == "https://example.org/1"
    assert documents["two"].acl == ("a",)
    assert documents["two"].metadata == {}
    assert len(documents["last"].text) == 5_000_000
    assert list(failures) == [f"some.jsonl:{line}" for line in (3, 4, 6, 7, 8)]
    assert "nested too deep" in failures["some.jsonl:7"]
    assert "acl" in failures["some.jsonl:6"]


def test_a_jsonl_line_of_broken_utf8_is_one_failure(tmp_path):
    (tmp_path / "some.jsonl").write_bytes(b'{"text": "ok", "id": "a"}\n{"text": "\xff"}\n{"text": "ok", "id": "b"}')
    documents, failures, _ = read(tmp_path)
    assert list(documents) == ["a", "b"]
    assert list(failures) == ["some.jsonl:2"]


def test_of_the_evaluation_layout_only_the_corpus_is_read(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "text", "metadata": {}}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a query"}\n')
    (tmp_path / "PROVENANCE.md").write_text("# No document")
    documents, failures, _ = read(tmp_path)
    assert (list(documents), failures) == (["d1"], {})


def test_two_corpora_can_be_named_together(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text(json.dumps({"_id": name, "text": "text"}))
    documents, failures, _ = read(tmp_path / "one", tmp_path / "two")
    assert (list(documents), failures) == (["one", "two"], {})


def test_files_of_two_folders_never_replace_each_other(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"# {name}")
    documents, failures, _ = read(tmp_path / "one", tmp_path / "two")
    assert documents["README.md"].title == "one"
    assert "same id" in failures["README.md"]


def test_what_nobody_asked_for_is_skipped_and_what_was_named_fails(tmp_path):
    (tmp_path / ".hidden.md").write_text("x")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "Makefile").write_text("all:")
    (tmp_path / "fine.txt").write_text("x")
    documents, failures, skipped = read(tmp_path)
    assert (list(documents), failures) == (["fine.txt"], {})
    assert skipped == {
        ".hidden.md": "hidden",
        "image.png": "no reader for .png",
        "Makefile": "no suffix to tell what it is",
    }
    assert "no reader for .png" in read(tmp_path / "image.png")[1]["image.png"]
    assert list(read(tmp_path / ".hidden.md")[0]) == [".hidden.md"]


def test_a_missing_path_is_a_failure(tmp_path):
    documents, failures, _ = read(tmp_path / "nowhere.md", tmp_path)
    assert not documents
    assert "No such file" in failures[str(tmp_path / "nowhere.md")]


def test_one_bad_file_does_not_stop_the_rest(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 damaged")
    (tmp_path / "c.txt").write_text("fine")
    documents, failures, _ = read(tmp_path)
    assert list(documents) == ["c.txt"]
    assert sorted(failures) == ["a.txt", "b.pdf"]
    assert "damaged" in failures["b.pdf"]


def test_encrypted_and_empty_pdfs_say_so(tmp_path):
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "plain.pdf").write_bytes(pdf("Secret text"))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "plain.pdf"))
    writer.encrypt("password", algorithm="AES-256")
    writer.write(tmp_path / "locked.pdf")
    (tmp_path / "scan.pdf").write_bytes(pdf(""))
    documents, failures, _ = read(tmp_path)
    assert list(documents) == ["plain.pdf"]
    assert "is encrypted" in failures["locked.pdf"]
    assert "holds no text" in failures["scan.pdf"]


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "big.txt").write_text("x" * 2000)
    (tmp_path / "big.html").write_text("<p>" + "x " * 1000)
    (tmp_path / "big.jsonl").write_text('{"text": "' + "x" * 2000 + '"}\n{"id": "ok", "text": "x"}')
    documents, failures, _ = read(tmp_path, max_file_bytes=1000)
    assert list(documents) == ["ok"]
    assert failures["big.jsonl:1"] == "the line is longer than 1,000 bytes"
    assert "larger than 1,000 bytes" in failures["big.txt"]
    assert "larger than 1,000 bytes" in failures["big.html"]


def test_reading_is_lazy(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x")
    reader = read_sources([tmp_path])
    assert next(reader).id == "0.txt"
    (tmp_path / "1.txt").unlink()
    assert isinstance(next(reader), Failure) or next(reader)
    reader.close()


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_odd_file_names_become_printable_ids(tmp_path):
    (tmp_path / "line\nbreak.txt").write_text("x")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("x")
    assert sorted(read(tmp_path)[0]) == ["caf\\xe9.txt", "line\\x0abreak.txt"]
