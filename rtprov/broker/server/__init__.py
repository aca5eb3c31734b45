"""The embedded broker's connections and channels: AMQP 0-9-1 methods, carried out on the engine."""
