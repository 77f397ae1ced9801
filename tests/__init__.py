"""Tests. Before torch is loaded: its threads wait asleep instead of spinning.

Spinning gains a millisecond on an idle machine. On one that others use too, threads then burn the very cores that
they wait for: encoding a query took 390 ms instead of 25 where three processes shared each core.
"""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Converted encoders go where nothing is left of them, and nothing of the user's is found; subprocesses share it.
if "LIR_CACHE_DIR" not in os.environ:
    os.environ["LIR_CACHE_DIR"] = tempfile.mkdtemp(prefix="lir-test-cache-")
    atexit.register(shutil.rmtree, os.environ["LIR_CACHE_DIR"], ignore_errors=True)
