"""Every number of this repository, from one command: `python -m benchmarks --data DIR`."""
