"""Tables of what is measured in milliseconds, passages a second and bytes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import lexical, storage
from benchmarks.markdown import ABSENT, Results, megabytes, milliseconds, of, spread, table


def _speed(results: Results) -> str:
    rows: list[list[str]] = []
    if found := results.get("speed/search"):
        against = found.get("against langchain-chroma", {})
        for name, taken in found["latency_ms"].items():
            what = f"search: k = 10, {found['passages']:,} passages"
            rows.append([what, name, *milliseconds(taken), spread(against[name]) if name in against else "1"])
    if found := results.get("speed/parts"):
        for name, taken in found["latency_ms"].items():
            rows.append(["one search, part by part", name, *milliseconds(taken), ""])
        rows[-1][-1] = f"search takes {spread(found['search against its parts'])}"
    if found := results.get("speed/memory"):
        for name, taken in found["latency_ms"].items():
            what = f"memory: {found['remembered_turns']} remembered turns"
            rows.append(
                [what, name, *milliseconds(taken), "" if name == "without" else f"{found['added_ratio']:+.0%}"]
            )
    return table(["measured", "system", "p50 ms", "p95 ms", "against"], rows)


def _rerankers(results: Results) -> str:
    found = results.get("rerankers/search")
    if not found:
        return ABSENT
    against = found["against index.search"]
    rows = [
        [name, *milliseconds(taken), spread(against[name]) if name in against else "1"]
        for name, taken in found["latency_ms"].items()
    ]
    rows += [[name, "", "", f"left out: {why}"] for name, why in found["left_out"].items()]
    head = [f"{found['candidates']} candidates of {found['passages']:,} passages", "p50 ms", "p95 ms", "against"]
    return table(head, rows)


def _scoring(results: Results) -> str:
    rows = []
    for dim, one in results.get("scoring/maxsim", {}).get("dims", {}).items():
        for name, taken in one["latency_ms"].items():
            ratio = one.get(f"maxsim against {name}")
            note = f"maxsim is {spread(ratio)} faster" if ratio else ""
            if name == one["limit"]:
                note = f"the limit: maxsim takes {spread(one['maxsim against the bare product'])}"
            rows.append([f"{dim} dimensions", name, *milliseconds(taken), note])
    return table(["MaxSim, 32 × 100 × 150 tokens", "", "p50 ms", "p95 ms", ""], rows)


def _gather(results: Results) -> str:
    found = results.get("scoring/gather")
    if not found:
        return ABSENT
    rows = [
        [name, *milliseconds(taken), spread(ratio) if (ratio := found.get(f"{name} against a copy")) else ""]
        for name, taken in found["latency_ms"].items()
    ]
    what = f"{found['passages']} passages, {megabytes(found['bytes'])}"
    return table([what, "p50 ms", "p95 ms", "against a copy"], rows)


def _scale(results: Results) -> str:
    found = results.get("scale/curve")
    if not found:
        return ABSENT
    stages = list(next(iter(found["stages_ms"].values())))
    rows = [
        [
            f"{found['passages'][size]:,}",
            *milliseconds(taken),
            f"{found['asked_first_ms'][size]['p50']:.2f}",
            *(f"{found['stages_ms'][size].get(stage, 0.0):.2f}" for stage in stages),
            megabytes(found["bytes"][size]["tokens"]),
        ]
        for size, taken in found["latency_ms"].items()
    ]
    if million := results.get("scale/million"):
        shown = million["projected_ms"]
        cells = [f"{shown['search']:.0f}", "", "", *(f"{shown.get(stage, 0.0):.0f}" for stage in stages)]
        rows.append([f"{million['passages']:,} (projected)", *cells, megabytes(million["projected_token_bytes"])])
    head = ["passages", "p50 ms", "p95 ms", "p50 ms, asked first", *stages, "token store"]
    return table(head, rows)


def _million(results: Results) -> str:
    found = results.get("scale/million")
    if not found:
        return ABSENT
    rows = [[name, *milliseconds(taken)] for name, taken in found["latency_ms"].items()]
    breaks = sorted(found["breaks"].items(), key=lambda one: one[1])
    rows += [[f"breaks: {what}", f"at {size:,} passages", ""] for what, size in breaks]
    made = f"{found['passages']:,} made passages of {found['tokens_each']} tokens"
    return table([f"{made}, scan {megabytes(found['scan_bytes'])}", "p50 ms", "p95 ms"], rows)


def _selective(results: Results) -> str:
    found, recall = results.get("selective/latency"), results.get("selective/recall")
    if not found or not recall:
        return ABSENT
    rows = [
        [
            name,
            f"{found['readable'].get(name, found['passages']):,}",
            *milliseconds(taken),
            spread(found["against off"][name]) if name in found["against off"] else "1",
            f"{recall['recall'][name]:.4f}",
        ]
        for name, taken in found["latency_ms"].items()
    ]
    head = ["access, may read", "passages", "p50 ms", "p95 ms", "against off", f"recall@{recall['depth']}"]
    return table(head, rows)


def _concurrency(results: Results) -> str:
    found = results.get("concurrency/threads")
    if not found:
        return ABSENT
    rows = [
        [threads, f"{found['per_second'][threads]:.1f}", *(f"{one[name]:.1f}" for name in ("p50", "p95", "p99"))]
        for threads, one in found["latency_ms"].items()
    ]
    rows.append(["gained", spread(found["throughput"]), "", "", f"{found['p99 against p50']:.2f} × p50"])
    threads = table(["threads", "searches/s", "p50 ms", "p95 ms", "p99 ms"], rows)
    others: list[list[str]] = []
    if batches := results.get("concurrency/batches"):
        others += [
            [f"one thread, batches of {size}", f"{batches['per_second'][size]:.1f}", spread(gained)]
            for size, gained in batches["throughput"].items()
        ]
    if processes := results.get("concurrency/processes"):
        others += [
            [
                f"{name.replace('two', 'two processes', 1)}, nothing shared",
                f"{processes['per_second'][name]:.1f}",
                spread(gained),
            ]
            for name, gained in processes["throughput"].items()
        ]
    return "\n\n".join(
        [threads, *([table(["instead of threads", "searches/s", "against one by one"], others)] if others else [])]
    )


def _process(results: Results) -> str:
    rows = []
    if found := results.get("process/import"):
        rows.append(["`import lir_agents`", f"{found['import_ms']['p50']:.0f} ms"])
    if found := results.get("process/answer"):
        parts = ", ".join(f"{name} {one['p50']:.0f}" for name, one in found["lir_agents_ms"].items())
        rows.append(["first answer of a fresh process", f"{found['whole_ms']['lir_agents']:.0f} ms ({parts})"])
        rival = f"{found['whole_ms']['langchain-chroma']:.0f} ms; ours {found['against langchain-chroma']:.2f} ×"
        rows.append(["langchain-chroma's", rival])
    if found := results.get("process/memory"):
        what = f"{found['passages']:,} passages, after {found['queries']} searches, beyond the loaded model: "
        rows.append([what + "heap", megabytes(found["grown"]["heap"])])
        rows.append(
            [what + "resident without the token store", megabytes(found["grown"]["all"] - found["grown"]["tokens"])]
        )
        rows.append([what + "pages of the token store that searches touched", megabytes(found["grown"]["tokens"])])
        rows.append([what + "own copies of these", megabytes(found["grown"]["tokens, own copies"])])
    return table(["a process", ""], rows)


def _storage(results: Results) -> str:
    rows = [
        [
            name,
            setting,
            f"{result['nDCG@10'][setting]:.4f}",
            f"{result['nDCG@10']['float32']:.4f}",
            f"{kept:.2%}",
            f"{result['bytes_per_token'][setting]:.0f}",
            f"{result['bytes_per_token']['float32']:.0f}",
            megabytes(result["bytes"][setting]),
        ]
        for name, result in of(results, "storage", storage.SETS)
        if "bytes_per_token" in result
        for setting, kept in result["quality_ratio"].items()
    ]
    head = ["collection", "setting", "nDCG@10", "float32", "kept", "bytes per token", "of float32", "store"]
    return table(head, rows)


def _ingest(results: Results) -> str:
    rows = [
        [
            name.partition("/")[2],
            f"{result['documents']:,}",
            f"{result['add_s']:.1f} s",
            f"{result['documents_per_s']:.1f}",
            f"{result['add_again_s']:.2f} s",
            f"{result['ratio']:.2%}",
        ]
        for name, result in results.items()
        if name.startswith("ingest/") and "documents" in result
    ]
    return table(["collection", "documents", "add", "documents/s", "add again, unchanged", "ratio"], rows)


def _passages(results: Results) -> str:
    found = results.get("ingest/passages")
    if not found:
        return ABSENT
    rows = [[name, f"{each:.1f}"] for name, each in found["passages_per_s"].items()]
    rows.append(["index.add is faster", spread(found["langchain-chroma against index.add"])])
    return table([f"{found['passages']:,} passages of {found['tokens']:.0f} tokens", "passages/s"], rows)


def _lexical(results: Results) -> str:
    rows = [
        [f"{result['passages']:,}", *(f"{one['p50']:.2f}" for one in result["latency_ms"].values()), spread(ratio)]
        for _, result in of(results, "lexical", [str(size) for size in lexical.SIZES])
        if (ratio := result["lexical stage against bm25s"])
    ]
    return table(["passages", "lexical stage, p50 ms", "bm25s, p50 ms", "against bm25s"], rows)


TABLES: dict[str, tuple[str, str, Callable[[Results], str]]] = {
    "storage": ("Bytes a token takes", "storage", _storage),
    "ingest": ("Adding documents", "ingest", _ingest),
    "passages": ("Adding beside langchain-chroma", "ingest", _passages),
    "speed": ("Speed", "speed", _speed),
    "rerankers": ("Beside rerankers that encode anew", "rerankers", _rerankers),
    "scoring": ("MaxSim and its limit", "scoring", _scoring),
    "gather": ("Gathering and its limit", "scoring", _gather),
    "scale": ("From a thousand passages to a million", "scale", _scale),
    "million": ("A million passages", "scale", _million),
    "selective": ("Access at every selectivity", "selective", _selective),
    "concurrency": ("Many questions at a time", "concurrency", _concurrency),
    "lexical": ("The lexical stage", "lexical", _lexical),
    "process": ("Starting, and memory", "process", _process),
}
"""Title, measurement and maker of each table."""
