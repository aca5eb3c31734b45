"""Tests of the HTTP side: raw bytes over connections in memory."""
