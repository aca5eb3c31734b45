"""Deterministic simulation: the whole system in one process, on one virtual clock and a network in memory, driven by one seed.

Front ends, workers and the embedded broker are the real ones; A, the clients, the disk, the network and the machines' clocks are simulated,
and go wrong as the seed has it. Then the calm begins, and everything must come to its end.

    python -m tests.simulation --seed 1234       one seed, with its trace
    python -m tests.simulation --seeds 100000    many, from --from on (0)

Read `faults` (what goes wrong), `checks` and `rest` (what must hold), `run` (a seed's acts), then `world` and what it is made of.
"""
