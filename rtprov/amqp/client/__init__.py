"""The client's side of AMQP 0-9-1: connection, channels, publishing with confirms, consuming,
requests and replies.
"""
