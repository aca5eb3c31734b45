"""Benchmarks. Each compares figures of one run, because absolute figures depend on the machine."""
