"""The embedded broker's storage: durable queues, exchanges and messages in a SQLite file."""
