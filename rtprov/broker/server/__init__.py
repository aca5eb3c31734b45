"""The embedded broker's AMQP server: connections, channels, and the methods on them."""
