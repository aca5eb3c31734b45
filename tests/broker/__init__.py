"""Contract tests of brokers, and tests of the embedded broker's own behaviour."""
