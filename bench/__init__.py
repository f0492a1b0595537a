"""Benchmarks: baseline and ours in one run, as ratios.

`make bench` runs all of them, `python -m bench.bench_<what>` one.
"""
