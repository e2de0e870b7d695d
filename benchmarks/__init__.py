"""The measurements behind BENCHMARKS.md.

Not part of the package; run them from a clone: `python -m benchmarks.accuracy`.
"""
