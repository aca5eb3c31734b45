"""Tests of `rtprov.amqp`, against a scripted peer on a network in memory."""
