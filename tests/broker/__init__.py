"""The contract suite for brokers, and what the embedded one bears beyond it."""
