"""The journal of a shard, a stream of events, and the replica of task states built from it."""
