"""Real processes and real RabbitMQ, broken on purpose in the middle of many tasks; A's own log
tells what was lost or repeated.
"""
