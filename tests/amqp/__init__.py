"""Tests of `rtprov.amqp`, with a scripted peer on an in-memory network."""
