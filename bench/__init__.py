"""Benchmarks: baseline and ours in one run, as ratios. `make bench` runs all; `python -m bench.bench_<what>` runs one."""
