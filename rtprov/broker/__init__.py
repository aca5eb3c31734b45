"""The embedded broker: an AMQP 0-9-1 server for one machine, on the Twisted reactor.

`server` is the way in. `connection` speaks the protocol; `channel` carries out a channel's methods, with `publishing`, `consuming` and
`replies`; `engine` keeps exchanges and queues, `queues` and `streams` hold messages, `storage` keeps what must outlive the process. It
covers what rtprov uses and answers 540 to the rest: docs/embedded-broker.md.
"""
