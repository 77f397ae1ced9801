"""SIGKILL at any moment of staging, committing, retiring and erasing leaves a sound and complete catalog."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lir_agents.stores.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from lir_agents.stores.catalog import Catalog
from tests.catalog_documents import document

catalog = Catalog.open(Path(sys.argv[1]))
gone = catalog.discard_pending()
step = int(catalog.get_meta("step") or 0)
while True:
    step += 1
    names = [f"d{(step + i) % 7}" for i in range(3)]
    texts = {name: [f"{name} {step} {p}" for p in range(4)] for name in names}
    rows = catalog.stage([document(name, texts[name], metadata={"step": step}) for name in names])
    print("staged", step, flush=True)
    catalog.commit(rows)
    print("committed", step, flush=True)
    if step % 5 == 0:
        catalog.retire([names[0]])
        print("retired", step, flush=True)
    if step % 11 == 0:
        catalog.erase([names[1]])
        print("erased", step, flush=True)
    catalog.set_meta("step", str(step))
"""


def run_and_kill(path: Path, delay_s: float) -> list[tuple[str, int]]:
    """Starts the writer, kills it `delay_s` after its first word, and returns what it had acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(ROOT)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    lines = (first + rest).split("\n")[:-1]  # what follows the last newline was cut off
    return [(word, int(step)) for word, step in (line.split() for line in lines)]


def last(acknowledged: list[tuple[str, int]], word: str) -> int:
    return max((step for said, step in acknowledged if said == word), default=0)


def check(path: Path, acknowledged: list[tuple[str, int]]) -> None:
    with Catalog.open(path, create=False) as catalog:
        assert catalog.check() == []
        texts: dict[str, list[str]] = {}
        for passage in catalog.passages(np.flatnonzero(catalog.live())):
            texts.setdefault(passage.document_id, []).append(passage.text)
        newest = 0
        for name, passages in texts.items():  # whole, of one version, with its metadata and text
            step = passages[0].split()[1]
            assert passages == [f"{name} {step} {p}" for p in range(4)]
            stored = catalog.document(name)
            assert stored is not None
            assert stored.text.split("\n") == passages
            assert stored.metadata == {"step": int(step)}
            newest = max(newest, int(step))
        assert newest >= last(acknowledged, "committed")  # nothing acknowledged is lost …
        assert newest <= last(acknowledged, "staged") + 1  # … and nothing is there that was never begun
        if last(acknowledged, "committed") == newest:
            if last(acknowledged, "retired") == newest:
                assert f"d{newest % 7}" not in texts
            if last(acknowledged, "erased") == newest:
                assert catalog.versions(f"d{(newest + 1) % 7}") == []
        pending = catalog.pending()
        assert len(pending) in (0, 12)  # one call's worth, or nothing
        live = catalog.live()
        assert not live[pending].any()
        assert catalog.discard_pending().tolist() == pending.tolist()
        assert np.flatnonzero(catalog.live()).tolist() == np.flatnonzero(live).tolist()


def kill_again_and_again(path: Path, times: int) -> int:
    """Starts and kills a writer so many times, each going on where the last one died; how many kills left a catalog
    that is sound and holds what was acknowledged."""
    chance, survived = random.Random(7), 0
    for _ in range(times):
        acknowledged = run_and_kill(path, chance.uniform(0, 0.06))
        assert acknowledged
        check(path, acknowledged)
        survived += 1
    return survived


def test_killed_again_and_again(tmp_path):
    assert kill_again_and_again(tmp_path / "catalog.sqlite", 8) == 8


@pytest.mark.long
def test_killed_at_a_hundred_points(tmp_path):
    assert kill_again_and_again(tmp_path / "catalog.sqlite", 100) == 100


def test_killed_while_the_file_is_made(tmp_path):
    """At every moment of the creation the catalog is either whole or absent."""
    code = (
        "import sys, itertools; from pathlib import Path; from lir_agents.stores.catalog import Catalog\n"
        "print('ready', flush=True)\n"
        "for i in itertools.count(): Catalog.open(Path(sys.argv[1]) / f'{i}.sqlite').close()"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    maker.stdout.readline()
    time.sleep(0.3)
    maker.kill()
    maker.stdout.close()
    maker.wait()
    made = list(tmp_path.glob("*.sqlite"))
    assert made
    for path in made:
        with Catalog.open(path, create=False) as catalog:
            assert catalog.epoch == 0
    unfinished = tmp_path / f"{len(made)}.sqlite"
    with Catalog.open(unfinished) as catalog:
        assert catalog.check() == []
