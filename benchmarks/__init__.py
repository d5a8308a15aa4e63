"""Measurements: `make bench`, or `python -m benchmarks ingest|broker|metrics`. Figures are compared within one run."""
