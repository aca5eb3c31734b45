"""AMQP 0-9-1 for Twisted: txamqp's channel model on pamqp's codec, with confirms, RPC and a
connection that comes back.
"""
