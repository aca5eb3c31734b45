"""Traces: the W3C ``traceparent`` of a task, and the interface of spans."""
