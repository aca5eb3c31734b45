"""The embedded broker: an AMQP 0-9-1 server for one machine, on the Twisted reactor.

Call `server.broker.make_broker`, and serve the result on a port with a
`server.factory.BrokerFactory`.

- `server`: the AMQP protocol. `connection` handles one client's connection; `handshake` sets it up,
  `channels` manages its channels, and `commit` runs at the end of each reactor turn. `channel`
  executes the methods of one channel, with `publishing`, `consuming` and `direct_reply`.
- `engine`: the state, without I/O. `virtual_host` has all queues and exchanges. `routing` and
  `exchange` map a message to queues. `queue` and `stream` deliver messages; `backlog` has the
  messages of a queue that are not delivered yet. `arguments` validates the arguments of a queue,
  `dead_lettering` makes dead letters, and `memory_alarm` counts the memory used by messages.
- `storage`: what survives a restart. `interface` defines it; `sqlite` writes it to a SQLite file
  with `database` and `database_file`; `memory` is for tests.

The broker implements the part of AMQP 0-9-1 that rtprov uses. It replies 540 to everything else;
see docs/embedded-broker.md.
"""
