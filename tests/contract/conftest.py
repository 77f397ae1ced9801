"""A Postgres of the tests' own: started where its programs are installed, gone when the tests are."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph.store.base import BaseStore


def program(name: str) -> str | None:
    """Debian keeps them out of the path."""
    found = [shutil.which(name), *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True))]
    return next((path for path in found if path), None)


def unprivileged() -> str | None:
    """Whom to run it as: Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("Postgres does not run as root, and there is no user postgres")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty database, reached by a socket in a folder of its own, never by the network."""
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        pytest.skip("Postgres (initdb, postgres) is not installed")
    user = unprivileged()
    with tempfile.TemporaryDirectory(prefix="lir-pg-", ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        made = [initdb, "-D", data, "-U", "lir", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, user=user, cwd=folder, check=True, capture_output=True)
        quick = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", "max_connections=20"]
        with subprocess.Popen(
            [server, "-D", data, "-k", folder, *quick],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running:
            try:
                address = f"host={folder} user=lir dbname=postgres"
                wait_for(address, running)
                yield address
            finally:
                running.send_signal(signal.SIGINT)  # a fast shutdown: open sessions are cut off
                running.wait(timeout=30)


def wait_for(address: str, running: subprocess.Popen[bytes], patience_s: float = 30.0) -> None:
    import psycopg

    until = time.monotonic() + patience_s
    while True:
        try:
            psycopg.connect(address).close()
            return
        except psycopg.OperationalError:
            if running.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres_tables(postgres: str) -> Iterator[BaseStore]:
    from langgraph.store.postgres import PostgresStore

    with PostgresStore.from_conn_string(postgres, pool_config={"min_size": 1, "max_size": 4}) as store:
        store.setup()
        yield store


@pytest.fixture
def postgres_store(postgres: str, postgres_tables: BaseStore) -> Iterator[BaseStore]:
    """LangGraph's Postgres store, empty."""
    import psycopg

    yield postgres_tables
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("TRUNCATE store")
