"""Tests. Before torch is loaded: its threads wait asleep instead of spinning.

Spinning gains a millisecond on an idle machine. On one that others use too, threads then burn the very cores that
they wait for: encoding a query took 390 ms instead of 25 where three processes shared each core.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
