"""The twistd commands: options, environment variables, ports, signals, logging, exit statuses.

`all_in_one`, `broker`, `frontend`, `stub` and `worker` are the commands; `reshard` is the command
line of ``python -m rtprov.shards``. Only this package imports the reactor; all other packages get
clock, reactor and endpoints as arguments.
"""
