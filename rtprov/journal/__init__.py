"""A shard's journal, a stream of events, and the state of tasks that is folded from it."""
