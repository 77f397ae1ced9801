"""Cards in notebooks: what they show, and that nothing from a document is more than text to the page."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lir_agents import Coverage, Document, Hit, LateInteractionIndex, SearchResult, StageCoverage
from tests.hashed_encoder import HashedEncoder

ALLOWED = {
    **{name: {"style"} for name in ("details", "ul")},
    **{name: set() for name in ("bdi", "code", "summary", "li")},
    "b": {"dir"},
    "div": {"style", "dir", "role", "aria-label", "title"},
    "span": {"style", "title"},
    "a": {"href", "rel", "target"},
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</div></details><iframe src=//evil.example>",
    "&lt;b&gt; &amp; &#60;script&#62;",
    "<!-- <style>*{display:none}</style>",
    "${alert(1)} `x` {{7*7}}",
]
STEERING = "\u202e\u202d\u2066\u2069\u200f\u061c\u200b\ufeff\x00\x07\x1b[2J\x85\ud800\U000e0041"


class Page(HTMLParser):
    """Reads a fragment as a browser would: elements with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "".join(self.words)

    def values(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.elements if attribute in attrs]


def safe(html: str) -> Page:
    page = Page(html)
    assert page.open == []
    for tag, attrs in page.elements:
        assert set(attrs) <= ALLOWED[tag], (tag, attrs)
        assert "url(" not in (attrs.get("style") or "")
    assert not set(STEERING) - {"[", "2", "J"} & set(html)
    html.encode()
    return page


def hit(**changes: Any) -> Hit:
    plain = Hit(
        rank=1,
        score=0.5,
        text="The cat sat on the mat.",
        title="A cat",
        document_id="doc/1",
        passage_id="doc/1#1.0",
        version=1,
        source="notes",
        source_uri="https://notes.example/1",
        content_sha256="",
        start=0,
        end=23,
        metadata={"region": "eu"},
        breakdown={"maxsim": 0.75, "dense": -0.25},
    )
    return dataclasses.replace(plain, **changes)


def result(*hits: Hit, caveat: str = "") -> SearchResult:
    stages = {"memory": StageCoverage("failed", caveat)} if caveat else {"memory": StageCoverage("ok")}
    return SearchResult(hits, "where is the cat?", Coverage(stages), {"total": 12.4}, "event-1")


@pytest.fixture
def index(quick_path: Path, encoder: HashedEncoder) -> Iterator[LateInteractionIndex]:
    with LateInteractionIndex.open(quick_path / "i.lir", encoder=encoder) as opened:
        yield opened


# ---------------------------------------------------------------- what is shown


def test_a_result_shows_ranks_scores_parts_and_provenance() -> None:
    second = hit(rank=2, score=-0.1, passage_id="doc/2#1.0", title="", document_id="doc/2")
    page = safe(result(hit(), second)._repr_html_())
    for shown in (
        "where is the cat?",
        "2 hits",
        "12 ms",
        "event-1",
        "A cat",
        "+0.500",
        "doc/2",
        "-0.100",
        "region",
    ):
        assert shown in page.text
    assert page.values("href") == ["https://notes.example/1"] * 2
    assert page.values("aria-label") == ["maxsim +0.75, dense -0.25"] * 2


def test_what_was_left_out_is_said() -> None:
    assert (
        "Ranked without: memory failed (the disk is full)."
        in Page(result(hit(), caveat="the disk is full")._repr_html_()).text
    )
    assert "Ranked without" not in Page(result(hit())._repr_html_()).text


def test_bars_share_one_scale_and_are_as_long_as_their_parts() -> None:
    cards = result(hit(), hit(rank=2, breakdown={"maxsim": 1.5, "tool:a": 0.25, "dense": 0.0}))
    widths = {
        (str(attrs["title"]), at): float(str(attrs["style"]).split("%")[0].removeprefix("width:"))
        for at, (_, attrs) in enumerate(Page(cards._repr_html_()).elements)
        if "title" in attrs
    }
    named = {name: width for (name, _), width in widths.items()}
    whole = 0.25 + 1.75
    assert named == {
        "dense -0.250": pytest.approx(100 * 0.25 / whole, abs=0.01),
        "maxsim +0.750": pytest.approx(100 * 0.75 / whole, abs=0.01),
        "maxsim +1.500": pytest.approx(100 * 1.5 / whole, abs=0.01),
        "tool:a +0.250": pytest.approx(100 * 0.25 / whole, abs=0.01),
    }


@pytest.mark.parametrize("breakdown", [{}, {"maxsim": 0.0}, {"maxsim": float("nan")}, {"maxsim": float("inf")}])
def test_odd_breakdowns_draw_no_bar(breakdown: dict[str, float]) -> None:
    assert "width:nan" not in hit(breakdown=breakdown)._repr_html_()


def test_long_results_say_how_many_more_there_are() -> None:
    page = Page(result(*(hit(rank=rank) for rank in range(1, 51)))._repr_html_())
    assert page.text.count("doc/1#1.0") == 20
    assert "… and 30 more" in page.text


def test_words_that_met_are_shaded_while_the_index_is_open(index: LateInteractionIndex) -> None:
    index.add([Document("The cat sat on the mat.", id="a"), Document("A dog talked about rent.", id="b")])
    found = index.search("cat mat", k=1)
    page = safe(found._repr_html_())
    assert [tip for tip in page.values("title") if "→" in tip] == ["cat → cat 1.00", "mat → mat 1.00"]
    assert "The cat sat on the mat." in page.text
    assert "not shaded" not in page.text
    index.close()
    after = safe(found._repr_html_())
    assert not [tip for tip in after.values("title") if "→" in tip]
    assert "The cat sat on the mat." in after.text
    assert "words are not shaded: index: is closed" in after.text


def test_an_erased_passage_is_shown_as_it_was_found(index: LateInteractionIndex) -> None:
    index.add([Document("The cat sat on the mat.", id="a")])
    (found,) = index.search("cat", k=1)
    index.erase(["a"])
    assert "words are not shaded" in safe(found._repr_html_()).text


# ---------------------------------------------------------------- that it is safe


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markup_in_documents_is_text(index: LateInteractionIndex, hostile: str) -> None:
    index.add(
        [
            Document(
                f"{hostile} the cat sat {hostile}",
                id=f"doc {hostile}",
                title=hostile,
                source_uri=f"javascript:{hostile}",
                metadata={f"about {hostile}": hostile, "list": [hostile, "x"]},
            )
        ]
    )
    found = index.search(f"cat {hostile}", k=1)
    page = safe(found._repr_html_())
    assert found[0].text in page.text, "shading leaves the passage whole"
    assert page.text.count(hostile) >= 5
    assert page.values("href") == []
    safe(found[0]._repr_html_())


@pytest.mark.parametrize("field", ["text", "title", "document_id", "passage_id", "source", "source_uri"])
def test_what_steers_or_hides_is_made_visible(field: str) -> None:
    # a title stands before the document's id, an address before the source
    about = {"title": "", "source_uri": "", field: f"https://evil.example/{STEERING}"}
    page = safe(hit(**about)._repr_html_())
    assert "\ufffd" * 10 in page.text
    assert all("evil" not in href for href in page.values("href"))
    safe(hit(metadata={STEERING: STEERING}, breakdown={f"tool:{STEERING}": 1.0})._repr_html_())


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "data:text/html,<b>", " https://x.example", "file:///etc/passwd", "//x.example"],
)
def test_only_web_addresses_become_links(address: str) -> None:
    page = safe(hit(source_uri=address)._repr_html_())
    assert page.values("href") == []
    assert address in page.text


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(),
    title=st.text(min_size=1),
    uri=st.one_of(st.text(), st.text().map("https://{}".format)),
    metadata=st.dictionaries(st.text(), st.one_of(st.text(), st.lists(st.text())), min_size=1, max_size=3),
    parts=st.dictionaries(st.text(), st.floats(-5, 5), max_size=4),
)
def test_whatever_a_document_holds_the_page_has_the_same_bones(
    text: str, title: str, uri: str, metadata: dict[str, Any], parts: dict[str, float]
) -> None:
    """Elements depend on numbers, counts and whether there is a link; never on what a text says."""
    given_ = hit(text=text, title=title, source_uri=uri, metadata=metadata, breakdown=parts)
    page = Page(given_._repr_html_())
    plain = hit(
        text="x",
        title="x",
        source_uri="https://x" if page.values("href") else "x",
        metadata={str(number): "x" for number in range(len(metadata))},
        breakdown={str(number): value for number, value in enumerate(parts.values())},
    )
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(plain._repr_html_()).elements]
    assert page.open == []


def test_the_face_of_the_package_does_not_load_it() -> None:
    code = "import lir_agents, sys; assert 'lir_agents.render_html' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
