"""Abuse case 20: hostile files run no code, reach no network, stay bounded, and are reported with a reason."""

import os
import pickle
import re
import resource
import socket
import sys
import threading
import time
import zipfile
import zlib

import pytest

from lir_agents import Document, Failure
from lir_agents.config import IngestSettings
from lir_agents.errors import InputError
from lir_agents.ingest.files import read_sources
from lir_agents.ingest.parser import Parser
from lir_agents.ingest.safe_open import open_regular

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, links and limits of POSIX")


def read(*paths, **settings):
    skipped = []
    found = list(
        read_sources(paths, settings=IngestSettings(**settings), on_skip=lambda *what: skipped.append(what))
    )
    documents = {item.id: item for item in found if isinstance(item, Document)}
    return documents, {item.id: item.reason for item in found if isinstance(item, Failure)}, dict(skipped)


class Bomb:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def test_pickles_are_not_loaded_under_any_name(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    proof = tmp_path / "ran"
    for name in ("a.pkl", "b.txt", "c.md", "d.jsonl", "e.html", "f.pdf", "g.bin"):
        (files / name).write_bytes(pickle.dumps(Bomb(str(proof)), protocol=4))
    documents, failures, skipped = read(files)
    assert not documents
    assert set(failures) == {"b.txt", "c.md", "d.jsonl:1", "e.html", "f.pdf"}
    assert set(skipped) == {"a.pkl", "g.bin"}
    assert not proof.exists()


def test_archives_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.txt", b"\0" * 10_000_000)
    (tmp_path / "bomb.txt").write_bytes((tmp_path / "bomb.zip").read_bytes())
    documents, failures, skipped = read(tmp_path)
    assert not documents
    assert "NUL" in failures["bomb.txt"] or "UTF-8" in failures["bomb.txt"]
    assert skipped == {"bomb.zip": "no reader for .zip"}


def test_entities_are_not_expanded_and_nothing_external_is_read(tmp_path):
    (tmp_path / "secret.txt").write_text("the secret")
    laughs = "".join(f'<!ENTITY l{i} "{"&l" + str(i - 1) + ";" * 10}">' for i in range(1, 12))
    (tmp_path / "bomb.xhtml").write_text(
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{laughs}'
        f'<!ENTITY file SYSTEM "file://{tmp_path}/secret.txt">]><html><p>&l11; &file; end</p></html>'
    )
    document = read(tmp_path / "bomb.xhtml")[0]["bomb.xhtml"]
    assert "secret" not in document.text.replace("secret.txt", "")
    assert len(document.text) < 5000


def test_no_network_is_reached_from_html(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        (tmp_path / "page.html").write_text(
            f'<link rel=stylesheet href="{url}"><img src="{url}"><iframe src="{url}"></iframe>'
            f'<script src="{url}"></script><meta http-equiv=refresh content="0; url={url}"><p>text'
        )
        assert read(tmp_path)[0]["page.html"].text == "text"
        with pytest.raises(TimeoutError):
            server.accept()


def test_endless_lines_are_passed_over_in_bounded_memory(tmp_path):
    path = tmp_path / "endless.jsonl"
    with path.open("wb") as file:
        file.truncate(600_000_000)  # sparse: one line of zeros
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"id": "after", "text": "still read"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    documents, failures, _ = read(path, max_file_bytes=50_000_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert list(documents) == ["after"]
    assert "longer than" in failures["endless.jsonl:1"]
    assert grown_kib < 200_000


def test_pipes_devices_and_sockets_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.md"))
        (tmp_path / "zero.txt").symlink_to("/dev/zero")
        began = time.perf_counter()
        documents, failures, skipped = read(tmp_path)
    assert not documents
    assert not failures
    assert skipped == {
        "pipe.txt": "a named pipe",
        "socket.md": "a socket",
        "zero.txt": "a symbolic link that leaves the folder",
    }
    _, failures, _ = read(tmp_path / "pipe.txt", tmp_path / "zero.txt")
    assert "named pipe" in failures["pipe.txt"]
    assert "character device" in failures["zero.txt"]
    assert time.perf_counter() - began < 5


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "swapped")
    regular = os.stat(__file__)
    monkeypatch.setattr("lir_agents.ingest.safe_open.os.stat", lambda path: regular)  # what it was a moment ago
    with pytest.raises(InputError, match="named pipe"):
        open_regular(tmp_path / "swapped")


def test_links_cannot_leave_the_folder_or_go_round_in_circles(tmp_path):
    (tmp_path / "outside.txt").write_text("not yours")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "inside.txt").write_text("fine")
    (folder / "out.txt").symlink_to("../outside.txt")
    (folder / "absolute.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "sub" / "loop").symlink_to("..")
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "twin.txt").symlink_to("inside.txt")
    documents, failures, skipped = read(folder)
    assert {id: document.text for id, document in documents.items()} == {"inside.txt": "fine", "twin.txt": "fine"}
    assert set(skipped) | set(failures) == {"out.txt", "absolute.txt", "sub/loop", "self.txt", "gone.txt"}
    assert skipped["out.txt"] == skipped["absolute.txt"] == "a symbolic link that leaves the folder"


def test_parent_parts_in_a_given_path_do_not_reach_the_id(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("x")
    assert list(read(tmp_path / "a" / ".." / "b.txt")[0]) == ["b.txt"]
    assert list(read(tmp_path / "a" / "..")[0]) == ["b.txt"]


def test_folders_nested_beyond_the_longest_path_end_in_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    open("deep.txt", "w").close()
    monkeypatch.chdir(tmp_path)
    _, failures, _ = read(tmp_path)
    assert any("name too long" in reason for reason in failures.values())


def test_deep_markup_is_given_up_in_time_and_the_next_file_is_read(tmp_path):
    (tmp_path / "deep.html").write_text("<div>" * 400_000 + "x")
    (tmp_path / "next.html").write_text("<p>fine")
    began = time.perf_counter()
    documents, failures, _ = read(tmp_path, parse_timeout_s=2)
    assert "took more than 2 s" in failures["deep.html"]
    assert documents["next.html"].text == "fine"
    assert time.perf_counter() - began < 15


def test_small_markup_has_little_time_and_large_markup_as_much_as_any_file(tmp_path, monkeypatch):
    monkeypatch.setattr("lir_agents.ingest.parser._AT_LEAST_S", 2.0)
    monkeypatch.setattr("lir_agents.ingest.parser._HTML_S_PER_MB", 0.1)
    attributes = " ".join(f"a{number}" for number in range(200_000))
    (tmp_path / "attributes.html").write_text(f"<p {attributes}>x</p>")
    (tmp_path / "next.html").write_text("<p>fine")
    began = time.perf_counter()
    documents, failures, _ = read(tmp_path, parse_timeout_s=20)
    assert "took more than 3.1" in failures["attributes.html"]
    assert documents["next.html"].text == "fine"
    assert time.perf_counter() - began < 15


def test_the_time_of_a_file_grows_with_its_size_up_to_the_setting(tmp_path):
    page = tmp_path / "page.html"
    with Parser(IngestSettings(parse_timeout_s=100)) as parser:
        for size_mb, seconds in ((0, 10), (10, 40), (100, 100)):
            with page.open("wb") as file:
                file.truncate(size_mb * 1_000_000)
            assert parser._limit_s(page, "html") == seconds
            assert parser._limit_s(page, "pdf") == 100
        assert parser._limit_s(tmp_path / "gone.html", "html") == 10


def test_markup_nested_within_reason_is_read(tmp_path):
    (tmp_path / "nested.html").write_text("<div>" * 3000 + "x" + "</div>" * 3000)
    assert read(tmp_path)[0]["nested.html"].text == "x"


def assembled_pdf(*objects: bytes) -> bytes:
    """A PDF whose table of objects is right, whatever the objects are; the first is its catalog."""
    data, table = b"%PDF-1.4\n", b"0000000000 65535 f \n"
    for number, body in enumerate(objects, 1):
        table += b"%010d 00000 n \n" % len(data)
        data += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    tail = b"xref\n0 %d\n%btrailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF"
    return data + tail % (len(objects) + 1, table, len(objects) + 1, len(data))


def flate_pdf(stream: bytes) -> bytes:
    packed = zlib.compress(stream, 9)
    return assembled_pdf(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 9 9]"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%b\nendstream" % (len(packed), packed),
    )


SOME_TEXT = b"BT /F1 9 Tf (x) Tj ET "  # a stream without any is not even parsed


@pytest.mark.parametrize(
    ("filling", "reason"),
    [(b" " * 120_000_000, "Limit"), (b"[" * 1_000_000, "nested"), (b"q " * 5_000_000, "maximum|took more than")],
    ids=["huge", "deep", "long"],
)
def test_pdf_streams_that_explode_are_bounded(tmp_path, filling, reason):
    (tmp_path / "bomb.pdf").write_bytes(flate_pdf(SOME_TEXT + filling))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    documents, failures, _ = read(tmp_path, parse_timeout_s=3, parse_memory_bytes=1 << 30)
    assert not documents
    assert re.search(reason, failures["bomb.pdf"])
    assert time.perf_counter() - began < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_pdf_whose_objects_go_round_in_circles_ends(tmp_path):
    (tmp_path / "loop.pdf").write_bytes(
        assembled_pdf(b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>")
    )
    assert "loop.pdf" in read(tmp_path, parse_timeout_s=5)[1]


def test_the_parser_may_open_no_socket_start_no_process_and_write_no_file(tmp_path):
    code = (
        "import os, socket, subprocess, sys\n"
        "from lir_agents.ingest.parse_worker import _confine\n"
        "_confine(1 << 30)\n"
        "def tried(f):\n"
        "    try: f()\n"
        "    except (PermissionError, OSError): return 'refused'\n"
        "    return 'DONE'\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"print(tried(socket.socket), tried(lambda: subprocess.run(['true'])), tried(lambda: os.system('true')),"
        f" tried(lambda: open({str(tmp_path / 'w')!r}, 'wb', buffering=0).write(b'x')), file=sys.stderr)\n"
    )
    import subprocess

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.split() == ["refused"] * 4


def test_a_worker_that_dies_is_replaced(tmp_path):
    (tmp_path / "page.html").write_text("<p>fine")
    with Parser(IngestSettings()) as parser:
        parser.parse(tmp_path / "page.html", "html")
        assert parser._worker is not None
        parser._worker.kill()
        parser._worker.wait()
        with pytest.raises(InputError, match="ended the parser"):
            parser.parse(tmp_path / "page.html", "html")
        assert parser.parse(tmp_path / "page.html", "html") == ("", "fine")


def test_the_worker_ends_with_the_reading(tmp_path):
    (tmp_path / "page.html").write_text("<p>fine")
    threads = threading.active_count()
    with Parser(IngestSettings()) as parser:
        parser.parse(tmp_path / "page.html", "html")
        worker = parser._worker
    assert worker is not None
    assert worker.returncode is not None
    assert threading.active_count() == threads
