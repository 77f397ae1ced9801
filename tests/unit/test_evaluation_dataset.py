from __future__ import annotations

import json
from pathlib import Path

import pytest

from lir_agents import InputError, Principal, ToolBinding, ToolSignal, Turn
from lir_agents.evaluation import Dataset, principal_of


def write(folder: Path, **files: object) -> Path:
    """A small dataset in the evaluation layout; `files` replaces whole files by their text."""
    corpus = [
        {"_id": "d1", "title": "One", "text": "first", "metadata": {"acl": ["user:a"], "url": "https://e.org/1"}},
        {"_id": "d2", "title": "", "text": "second", "metadata": {"acl": ["group:x"], "author": None}},
    ]
    history = [
        {"speaker": "user", "text": "hello", "timestamp": 1},
        {"speaker": "agent", "text": "hi", "context_ids": ["d2"]},
    ]
    signal = {"tool": "runtime", "output": {"version": "3"}, "confidence": 0.5}
    situation = {
        "history": history,
        "principals": ["all", "user:a"],
        "filter": {"lang": "en"},
        "tool_outputs": [signal],
        "rewrite": "what is first?",
        "turn": 2,
    }
    queries = [
        {"_id": "q1", "text": "what?", "metadata": situation},
        {
            "_id": "q2",
            "text": "secret?",
            "metadata": {"principals": ["user:b"], "expect": "deny", "forbidden_target": ["d1"]},
        },
        {"_id": "q3", "text": "not judged", "metadata": {"principals": ["user:b"]}},
    ]
    binding = {"tool": "runtime", "field": "version", "metadata_key": "version", "mode": "boost"}
    texts: dict[str, object] = {
        "dataset.json": json.dumps({"name": "tiny", "bindings": [binding]}),
        "corpus.jsonl": "\n".join(map(json.dumps, corpus)),
        "queries.jsonl": "\n".join(map(json.dumps, queries)) + "\n",
        "qrels/dev.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\n",
    }
    (folder / "qrels").mkdir(parents=True)
    for name, text in (texts | files).items():
        if isinstance(text, bytes):
            (folder / name).write_bytes(text)
        elif text is not None:
            (folder / name).write_text(str(text), encoding="utf-8")
    return folder


def test_a_query_carries_its_whole_situation(tmp_path: Path) -> None:
    dataset = Dataset.load(write(tmp_path / "tiny"), "dev")
    query = dataset.queries[0]
    assert query.history == (Turn("user", "hello"), Turn("assistant", "hi", passage_ids=("d2",)))
    assert query.principal == Principal("user:a", groups=["all"])
    assert query.filter == {"lang": "en"}
    assert query.tool_signals == (ToolSignal("runtime", {"version": "3"}, confidence=0.5),)
    assert (query.expect, query.rewrite, query.metadata) == ("answer", "what is first?", {"turn": 2})
    assert dataset.bindings == (ToolBinding("runtime", "version", "version", "boost"),)
    assert dataset.qrels == {"q1": {"d1": 2}}


def test_judged_and_denied_queries_are_asked_and_no_others(tmp_path: Path) -> None:
    dataset = Dataset.load(write(tmp_path / "tiny"))
    assert [query.id for query in dataset.queries] == ["q1", "q2"]
    assert dataset.queries[1].forbidden_target == ("d1",)
    assert dataset.governed
    assert dataset.acls == {"d1": frozenset({"user:a"}), "d2": frozenset({"group:x"})}
    assert [query.id for query in dataset.limit(1).queries] == ["q1"]


def test_documents_stream_with_their_readers(tmp_path: Path) -> None:
    dataset = Dataset.load(write(tmp_path / "tiny"))
    first, second = dataset.documents()
    assert (first.id, first.title, first.text, first.source_uri) == ("d1", "One", "first", "https://e.org/1")
    assert first.acl == ("user:a",)
    assert second.metadata == {}
    assert second.acl == ("group:x",)


def test_a_plain_beir_folder_needs_no_dataset_json(tmp_path: Path) -> None:
    dataset = Dataset.load(write(tmp_path / "beir", **{"dataset.json": None}))
    assert (dataset.name, dataset.bindings) == ("beir", ())


def test_the_only_split_is_the_default_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "tiny", **{"qrels/dev.tsv": None, "qrels/train.tsv": "q1\td1\t1\n"})
    assert Dataset.load(folder).split == "train"
    with pytest.raises(InputError, match=r"no split 'dev'.*train"):
        Dataset.load(folder, "dev")
    (folder / "qrels/test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(InputError, match=r"no split was named.*test, train"):
        Dataset.load(folder)


def test_who_asks_is_the_user_among_the_grants() -> None:
    assert principal_of(["tenant:z"]) == Principal("tenant:z")
    assert principal_of(["all", "dept:x", "user:7"]) == Principal("user:7", groups=["all", "dept:x"])
    with pytest.raises(InputError, match="principals"):
        principal_of([])


DAMAGE = {
    "not a query": ("queries.jsonl", "[1]\n", r"queries.jsonl line 1.*_id"),
    "half a line": ("queries.jsonl", '{"_id": "q1", "text": "x"}\n{"_id": "q', r"queries.jsonl line 2.*not JSON"),
    "no text": ("queries.jsonl", '{"_id": "q1"}\n', r"queries.jsonl line 1.*'text'"),
    "text no string": ("queries.jsonl", '{"_id": "q1", "text": 5}\n', r"line 1: text: is int"),
    "an id twice": ("queries.jsonl", '{"_id": "q1", "text": "x"}\n' * 2, r"an _id twice"),
    "unknown speaker": (
        "queries.jsonl",
        '{"_id": "q1", "text": "x", "metadata": {"history": [{"speaker": "cat", "text": "meow"}]}}\n',
        r"line 1: history.speaker: is 'cat'",
    ),
    "history no list": ("queries.jsonl", '{"_id": "q1", "text": "x", "metadata": {"history": [3]}}\n', r"line 1"),
    "metadata no object": ("queries.jsonl", '{"_id": "q1", "text": "x", "metadata": [1]}\n', r"line 1"),
    "nobody asks": ("queries.jsonl", '{"_id": "q1", "text": "x", "metadata": {"principals": []}}\n', r"line 1"),
    "nothing judged": ("queries.jsonl", '{"_id": "other", "text": "x"}\n', r"no query.*judged"),
    "no UTF-8": ("queries.jsonl", b'{"_id": "q\xff"}\n', r"queries.jsonl: is not UTF-8"),
    "two columns": ("qrels/dev.tsv", "q1\td1\n", r"dev.tsv line 1.*three"),
    "score no number": ("qrels/dev.tsv", "q1\td1\t1.5\n", r"dev.tsv line 1.*'1.5'"),
    "judged twice": ("qrels/dev.tsv", "q1\td1\t1\nq1\td1\t2\n", r"dev.tsv line 2.*second time"),
    "bindings": ("dataset.json", '{"bindings": [{"tool": "t"}]}', r"dataset.json: bindings"),
    "dataset.json": ("dataset.json", '{"name": ', r"dataset.json line 1.*not JSON"),
    "dataset.json a list": ("dataset.json", "[]", r"dataset.json.*object"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_its_place(tmp_path: Path, case: str) -> None:
    name, text, message = DAMAGE[case]
    folder = write(tmp_path / "tiny", **{name: text})
    with pytest.raises(InputError, match=message):
        Dataset.load(folder)


def test_a_damaged_corpus_is_named_when_it_is_read(tmp_path: Path) -> None:
    corpus = '{"_id": "d1", "text": "fine"}\n{"_id": "d2", "text": ["not", "text"]}\n'
    dataset = Dataset.load(write(tmp_path / "tiny", **{"corpus.jsonl": corpus}))
    with pytest.raises(InputError, match=r"corpus.jsonl line 2: text"):
        list(dataset.documents())


def test_a_folder_that_is_no_dataset_says_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Dataset.load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no qrels/<split>.tsv.*corpus.jsonl"):
        Dataset.load(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/dev.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(InputError, match=r"queries.jsonl does not exist"):
        Dataset.load(tmp_path)


def test_judged_queries_that_are_missing_are_noted(tmp_path: Path) -> None:
    dataset = Dataset.load(write(tmp_path / "tiny", **{"qrels/dev.tsv": "q1\td1\t1\nq9\td1\t1\n"}))
    assert dataset.notes == ("1 judged queries are not in queries.jsonl",)
