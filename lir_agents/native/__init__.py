"""Loops that touch every vector: in C, compiled when the package is built (hatch_build.py), called through ctypes.

The C knows nothing of Python, and whoever calls it gives Python's lock away until it returns. Where there was no
compiler there is no library, and NumPy or torch does the same.
"""
