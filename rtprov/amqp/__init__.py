"""AMQP 0-9-1 for Twisted: framing, codec and heartbeats for clients and the broker.

The subpackage `rtprov.amqp.client` is the client.
"""
