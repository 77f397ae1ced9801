"""Loops that touch every vector, compiled when the package is built (hatch_build.py), and called through ctypes.

They know nothing of Python, and give its lock away while they run. Where there was no compiler there is no library,
and who calls does the same with NumPy or torch.
"""
