"""The embedded broker: an AMQP 0-9-1 server for one machine, on the Twisted reactor.

`server.broker.make_broker` is the way in; a `server.factory.BrokerFactory` serves its result on a
port. A `server.connection` speaks the protocol, with `handshake`, `channels` and, at the end of
each reactor turn, `commit`; a `channel` carries out methods, with `publishing`, `consuming` and
`direct_reply`.

A `engine.virtual_host` has the queues: `routing` leads to them by way of each `exchange`. A `queue`
or `stream` delivers messages; a `backlog` has those of a queue that wait. `arguments` says what may
be declared, `dead_lettering` what becomes of a message that is given up; `memory_alarm` counts the
memory that all of them take.

What must outlive the process is told to a `storage.interface.Storage`. `storage.sqlite` keeps it in
a `database`, which `database_file` opens; `storage.memory` is for tests. All that rtprov uses is
implemented; the rest is answered with 540: docs/embedded-broker.md."""
