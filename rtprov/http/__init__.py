"""The HTTP server side of all commands: limits, admission, JSON answers, and health checks."""
