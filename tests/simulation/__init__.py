"""Deterministic simulation of the whole system: one process, one virtual clock, an in-memory
network, and one seed that decides everything that is random.

The front ends, the workers, the embedded broker and the broker's storage are the real code. The
storage uses an in-memory SQLite database, which survives a crash of the simulated broker. Service
A, the clients, the network, the broker's writer thread and the machines' clocks are simulated. The
seed decides how they fail. After a time of faults all faults end (the "calm"), and then every task
must reach its final status.

    python -m tests.simulation --seed 1234                         one seed, with its trace
    python -m tests.simulation --seeds 100000                      many, from --from on (0)
    python -m tests.simulation --seed 0 --mutation "lanes off"     one seed, with a bug put in

Vocabulary: a *role* is a simulated process, such as ``worker 1``. A *link* is a connection between
two roles. A *mutation* is a bug put in on purpose, which the simulation must find. A *knob* is a
limit that is set so low that a few tasks reach it.

Read the modules in this order:

- `faults` and `knobs`: what goes wrong. `operators`, `another_count` and `backups`: what operators
  do meanwhile.
- `checks`, `restored` and `rest`: what must hold.
- `run`: the phases of a run.
- `world`, and its parts `clock`, `network`, `links`, `disk`, `service_a`, `clients` and `orders`.
- `mutations` and the other modules of that name: the bugs that must be found.

The result of a run depends only on its seed. All random numbers come from `World.rng`, and the
product's behaviour must not depend on the iteration order of a set of objects.
"""
