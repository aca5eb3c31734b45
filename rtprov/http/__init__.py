"""The HTTP server side of all commands: limits, admission, JSON answers, and health checks.

One connection is built in three modules, from bottom to top: `channel` (Twisted's parser, with
limits), `fast_lane` (plain requests pass by it) and `site` (errors in JSON, admission).
"""
