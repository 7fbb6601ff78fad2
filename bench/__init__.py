"""Benchmarks: `make bench-pipeline`, `make bench-freshness`, `make bench-search`. See README.md beside this file."""
