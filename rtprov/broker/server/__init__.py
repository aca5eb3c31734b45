"""The embedded broker's connections and channels: AMQP 0-9-1 methods on a virtual host."""
