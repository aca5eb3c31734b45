"""The embedded broker's state: exchanges, queues and streams, without sockets and frames."""
