"""The embedded broker: an AMQP 0-9-1 server for one machine, on the Twisted reactor.

`server` is the way in. A `connection` speaks the protocol, with `handshake`, `channels` and, at the
end of each turn, `turn`; a `channel` carries out a channel's methods, with `publishing`,
`consuming` and `replies`. `routing` leads by way of `exchanges` to the queues, which `engine`
keeps: `streams`, and `queues`, of whose messages a `backlog` has those that wait. `arguments` says
what may be declared, `dead_letters` what becomes of a message that is given up; `memory` counts
what all of them take. What must outlive the process is told to a `storage`: `sqlite` keeps it, in a
`database` that `opening` opens. Whatever rtprov uses is there, and 540 the answer to the rest:
docs/embedded-broker.md."""
