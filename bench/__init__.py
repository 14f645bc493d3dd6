"""Benchmarks with the peers beside us in the same run, and the demonstration. Run by `make bench` and `make demo`."""
