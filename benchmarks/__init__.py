"""Measurements behind BENCHMARKS.md. Not part of the package; run from a clone: `python -m benchmarks.accuracy`."""
