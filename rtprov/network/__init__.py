"""Opens connections: host names, name look-ups, a deadline over all phases, the PROXY protocol."""
