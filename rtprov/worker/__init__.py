"""The worker: takes tasks from the work queue, calls service A, and writes the outcome to the
journal.

`service` connects one process to the broker, `shard_worker` handles the deliveries of one shard,
and `attempts` makes the calls. Other modules limit the calls (`call_limiter`, `circuit_breaker`,
`quarantine`), keep the order of each device's tasks (`device_queues`), and find tasks whose message
or sealing key is missing (`census`, `missing_keys`).
"""
