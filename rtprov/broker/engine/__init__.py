"""The embedded broker's state: exchanges, queues and streams. No sockets, no frames."""
