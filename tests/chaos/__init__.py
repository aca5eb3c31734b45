"""Chaos tests: real processes and a real RabbitMQ are broken during many tasks. The log of service
A shows which calls were lost or repeated.
"""
