"""Which engine should answer lexical search: the measurement behind docs/decisions/0001-lexical-search.md.

    python benchmarks/lexical_engines.py --data FOLDER [--passages 10000 100000] [--json FILE]

FOLDER holds evaluation collections (`<name>/corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`). tantivy and bm25s are
measured where they are installed; the package depends on neither. All engines run in this process on the same
texts; queries of the engines are interleaved, so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import sqlite3
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lir_agents.stores.bm25 import top
from lir_agents.stores.lexical import LmdbLexical

SHARES = (1.0, 0.5, 0.1, 0.01, 0.001)
TEXT_SETS = ("scifact", "mtrag_clapnq", "mtrag_fiqa", "mtrag_cloud")
QUALITY_SETS = ("scifact", "mtrag_clapnq")
BATCH = 1000
REPEATS = 100
K = 100


class Engine(Protocol):
    """One way to search: rows are 0 … n - 1, scopes are named by their share of the rows."""

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None: ...

    def delete(self, rows: Sequence[int]) -> None: ...

    def search(self, query: str, share: float, k: int) -> list[tuple[int, float]]: ...


class Scopes:
    """The same random scopes for every engine; scopes are nested."""

    def __init__(self, size: int) -> None:
        self.draw = np.random.default_rng(0).random(size)
        self.masks = {share: self.draw < share for share in SHARES}


class Own:
    """This package's index."""

    def __init__(self, path: Path, scopes: Scopes) -> None:
        self.store, self.scopes = LmdbLexical.open(path / "own"), scopes

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        self.store.add(np.asarray(rows, np.int64), texts)

    def delete(self, rows: Sequence[int]) -> None:
        self.store.delete(np.asarray(rows, np.int64))

    def search(self, query: str, share: float, k: int) -> list[tuple[int, float]]:
        rows, scores = top(self.store.scores_for_text(query, self.scopes.masks[share]), k)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))


class Fts5:
    """SQLite FTS5, porter stemming; a scope is a table of rows to join with."""

    def __init__(self, path: Path, scopes: Scopes) -> None:
        self.db = sqlite3.connect(path / "fts5.sqlite", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61')")
        self.names = {share: f"scope{i}" for i, share in enumerate(SHARES)}
        for share, name in self.names.items():
            self.db.execute(f"CREATE TEMP TABLE {name} (row INTEGER PRIMARY KEY)")
            rows = np.flatnonzero(scopes.masks[share]).tolist()
            self.db.executemany(f"INSERT INTO {name} VALUES (?)", ((row,) for row in rows))

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO passages(rowid, text) VALUES (?, ?)", zip(rows, texts, strict=True))
        self.db.execute("COMMIT")

    def delete(self, rows: Sequence[int]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany("DELETE FROM passages WHERE rowid = ?", ((row,) for row in rows))
        self.db.execute("COMMIT")

    def search(self, query: str, share: float, k: int) -> list[tuple[int, float]]:
        match = " OR ".join(f'"{word}"' for word in sorted(content_words(query)))
        if not match:
            return []
        join = "" if share == 1.0 else f"AND +rowid IN {self.names[share]}"  # + : filter, do not drive by it
        sql = f"SELECT rowid, -bm25(passages) FROM passages WHERE passages MATCH ? {join} ORDER BY 2 DESC LIMIT ?"
        return self.db.execute(sql, (match, k)).fetchall()


class Tantivy:
    """tantivy, en_stem; a scope is a term that its documents carry: the friendliest case, access classes."""

    def __init__(self, path: Path, scopes: Scopes) -> None:
        import tantivy

        self.tantivy, self.scopes = tantivy, scopes
        builder = tantivy.SchemaBuilder()
        builder.add_integer_field("row", stored=True, indexed=True, fast=True)
        builder.add_text_field("text", tokenizer_name="en_stem")
        builder.add_text_field("scope", tokenizer_name="raw")
        self.schema = builder.build()
        (path / "tantivy").mkdir()
        self.index = tantivy.Index(self.schema, path=str(path / "tantivy"))
        self.writer = self.index.writer(128 << 20, 1)

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        for row, text in zip(rows, texts, strict=True):
            document = self.tantivy.Document(row=row, text=text)
            for share, mask in self.scopes.masks.items():
                if mask[row]:
                    document.add_text("scope", str(share))
            self.writer.add_document(document)
        self._commit()

    def delete(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.writer.delete_documents_by_term("row", row)
        self._commit()

    def search(self, query: str, share: float, k: int) -> list[tuple[int, float]]:
        wanted = self.index.parse_query(" ".join(sorted(content_words(query))) or "nothing", ["text"])
        if share < 1.0:
            tantivy = self.tantivy
            scope = tantivy.Query.const_score_query(tantivy.Query.term_query(self.schema, "scope", str(share)), 0.0)
            wanted = tantivy.Query.boolean_query([(tantivy.Occur.Must, wanted), (tantivy.Occur.Must, scope)])
        searcher = self.index.searcher()
        hits = searcher.search(wanted, k, count=False).hits
        return [(searcher.doc(address)["row"][0], score) for score, address in hits]

    def _commit(self) -> None:
        self.writer.commit()
        self.index.reload()


def content_words(text: str) -> set[str]:
    """The words of a query without function words: FTS5 and tantivy's en_stem drop none by themselves."""
    from lir_agents.stores.analysis import STOP_WORDS

    return {word for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS}


def engines(path: Path, scopes: Scopes) -> dict[str, Engine]:
    """Every engine that can be measured here, empty."""
    made: dict[str, Engine] = {"own": Own(path, scopes), "fts5": Fts5(path, scopes)}
    if find_spec("tantivy"):
        made["tantivy"] = Tantivy(path, scopes)
    return made


# ---------------------------------------------------------------- material


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def made_up_passages(data: Path, count: int) -> list[str]:
    """Passages of six sentences drawn from real ones: real words at real frequencies."""
    texts = (line["text"] for name in TEXT_SETS for line in read_lines(data / name / "corpus.jsonl"))
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if 20 < len(s) < 400]
    draw = random.Random(0)
    return [" ".join(draw.choices(sentences, k=6)) for _ in range(count)]


def questions(data: Path) -> list[str]:
    """Real questions of 17 to 19 words."""
    texts = [line["text"] for name in TEXT_SETS for line in read_lines(data / name / "queries.jsonl")]
    found = [text for text in texts if 17 <= len(text.split()) <= 19]
    random.Random(0).shuffle(found)
    return found[:REPEATS]


# ---------------------------------------------------------------- measurements


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def speed(data: Path, count: int) -> dict[str, dict[str, float]]:
    """Adding, searching, changing `count` passages; times in milliseconds, medians."""
    passages, asked = made_up_passages(data, count + BATCH), questions(data)
    scopes = Scopes(count + BATCH)
    results: dict[str, dict[str, float]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        made = engines(Path(folder), scopes)
        for name, engine in made.items():
            batches = [range(at, min(at + BATCH, count)) for at in range(0, count, BATCH)]
            took = sum(seconds(lambda r=rows, e=engine: e.add(r, [passages[i] for i in r])) for rows in batches)
            results[name]["added per second"] = count / took
        for share in SHARES:
            times: dict[str, list[float]] = defaultdict(list)
            for engine in made.values():
                engine.search(asked[0], share, K)
            for query in asked:
                for name, engine in made.items():
                    times[name].append(1e3 * seconds(lambda e=engine, q=query, s=share: e.search(q, s, K)))
            for name, values in times.items():
                results[name][f"search {share:g} p50 ms"] = statistics.median(values)
        for name, engine in made.items():
            fresh = range(count, count + 30)
            one = [1e3 * seconds(lambda r=row, e=engine: e.add([r], [passages[r]])) for row in fresh]
            gone = [1e3 * seconds(lambda r=row, e=engine: e.delete([r])) for row in fresh]
            results[name]["add one ms"] = statistics.median(one)
            results[name]["delete one ms"] = statistics.median(gone)
        results["own"]["absent term us"], results["own"]["unreadable term us"] = timing_gap(
            made["own"], scopes, count
        )
    return dict(results)


def timing_gap(own: Any, scopes: Scopes, count: int) -> tuple[float, float]:
    """Median microseconds of a search for a term that none holds, and for one of an unreadable passage only.

    Twenty pairs of terms, asked in random order. Both searches find nothing; a gap between them is a channel.
    """
    mask, draw = scopes.masks[0.5], random.Random(0)
    rows = np.flatnonzero(~mask[:count])[:20].tolist()
    own.delete(rows)
    own.add(rows, [f"zyxhidden{row}" for row in rows])
    times: dict[str, list[float]] = {"absent": [], "hidden": []}
    for row in rows:
        pair = {kind: own.store.analyze(f"zyx{kind}{row}")[0] for kind in times}
        if not own.store.scores([(pair["hidden"], 1.0)], ~mask).any():
            raise RuntimeError("the hidden term is not in the index: the comparison would be of nothing")
        for _ in range(500):
            for kind in draw.sample(list(pair), 2):
                times[kind].append(seconds(lambda t=pair[kind]: own.store.scores([(t, 1.0)], mask)))
    return 1e6 * statistics.median(times["absent"]), 1e6 * statistics.median(times["hidden"])


def leak(path: Path) -> dict[str, bool]:
    """Whether the score of a readable passage moves when an unreadable one is added."""
    scopes = Scopes(4000)
    readable = np.flatnonzero(scopes.masks[0.1])[:20].tolist()
    hidden = np.flatnonzero(~scopes.masks[0.1])[:200].tolist()
    moved = {}
    for name, engine in engines(path, scopes).items():
        engine.add(readable, [f"merger talks number{row}" for row in readable])
        before = engine.search("merger number" + str(readable[0]), 0.1, 5)
        engine.add(hidden, ["the merger is with the company nobody may read about yet"] * len(hidden))
        moved[name] = engine.search("merger number" + str(readable[0]), 0.1, 5) != before
    return moved


def quality(data: Path, name: str) -> dict[str, float]:
    """nDCG@10 of every engine over a whole collection, and of bm25s (Lucene's formula) where it is installed."""
    corpus, split = read_lines(data / name / "corpus.jsonl"), sorted((data / name / "qrels").glob("*.tsv"))[0]
    texts = [f"{line.get('title') or ''}\n{line['text']}" for line in corpus]
    numbers = {line["_id"]: row for row, line in enumerate(corpus)}
    asked = {line["_id"]: line["text"] for line in read_lines(data / name / "queries.jsonl")}
    wanted: dict[str, dict[int, int]] = defaultdict(dict)
    for line in split.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        wanted[query][numbers[document]] = int(grade)
    rankings: dict[str, Callable[[str], list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine_name, engine in engines(Path(folder), Scopes(len(texts))).items():
            engine.add(range(len(texts)), texts)
            rankings[engine_name] = lambda q, e=engine: [row for row, _ in e.search(q, 1.0, 10)]
        if find_spec("bm25s"):
            rankings["bm25s"] = reference(texts)
        return {
            engine_name: statistics.mean(ndcg(rank(asked[query]), grades) for query, grades in wanted.items())
            for engine_name, rank in rankings.items()
        }


def reference(texts: Sequence[str]) -> Callable[[str], list[int]]:
    """bm25s with Lucene's formula, k1 = 1.2, b = 0.75, its own English stop words and the same stemmer."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(
        bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )

    def rank(query: str) -> list[int]:
        terms = bm25s.tokenize([query], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)[0]
        known = [term for term in terms if term in index.vocab_dict]
        return top(index.get_scores(known), 10)[0].tolist() if known else []

    return rank


def ndcg(ranking: Sequence[int], grades: dict[int, int]) -> float:
    gain = sum(grades.get(row, 0) / math.log2(place + 2) for place, row in enumerate(ranking[:10]))
    best = sum(g / math.log2(place + 2) for place, g in enumerate(sorted(grades.values(), reverse=True)[:10]))
    return gain / best if best else 0.0


# ---------------------------------------------------------------- reporting


def table(title: str, results: dict[str, dict[str, float]]) -> str:
    """Measures down, engines across."""
    names = list(results)
    rows = list(dict.fromkeys(measure for values in results.values() for measure in values))
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = (f"{results[name][row]:.4g}" if row in results[name] else "–" for name in names)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "load": os.getloadavg()[0],
        }
    }
    report["quality"] = {name: quality(options.data, name) for name in QUALITY_SETS}
    by_engine: dict[str, dict[str, float]] = defaultdict(dict)
    for name, values in report["quality"].items():
        for engine, value in values.items():
            by_engine[engine][name] = value
    print(table("nDCG@10", by_engine), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report["score of a readable passage moved by an unreadable one"] = leak(Path(folder))
    print(report["score of a readable passage moved by an unreadable one"], flush=True)
    for count in options.passages:
        report[f"speed {count}"] = speed(options.data, count)
        print(table(f"{count:,} passages", report[f"speed {count}"]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
