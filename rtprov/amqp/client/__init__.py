"""AMQP 0-9-1 client for Twisted: txAMQP's channel model on pamqp's codec.

It has connections that reconnect, channels, publishing with confirms, consuming, and requests with
replies (RPC).
"""
