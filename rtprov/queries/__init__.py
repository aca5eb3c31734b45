"""Questions about tasks over AMQP: what front ends ask, and how workers answer."""
