"""Deterministic simulation: the whole system in one process, on one virtual clock and a network in
memory, driven by one seed.

Front ends, workers and the embedded broker are the real ones, the broker's storage too, on a
database in memory that outlives it. A, the clients, the network, the writer thread and the
machines' clocks are simulated, and go wrong as the seed has it. Then the calm begins, and
everything must come to its end.

    python -m tests.simulation --seed 1234                         one seed, with its trace
    python -m tests.simulation --seeds 100000                      many, from --from on (0)
    python -m tests.simulation --seed 0 --mutation "lanes off"     one seed, with a bug put in

Read `faults` and `knobs` (what goes wrong), `operators`, `another_count` and `backups` (what
operators do), `checks`, `restored` and `rest` (what must hold), `run` (a seed's acts), then `world`
and what it is made of: `clock`, `network`, `links`, `disk`, `service_a`, `clients`, `orders`.
`mutations` and those beside it are bugs that must be found.

A run depends on its seed alone: all dice are `World.rng`'s, and nothing of the product may depend
on the order of a set of objects."""
