"""The twistd commands: options, environment variables, ports, signals, logging, exit statuses.

`all_in_one`, `broker`, `frontend`, `stub` and `worker` are the commands. `options` defines their
options, and `environment_variables` lists them once more, by command. `reshard`, `move` and
`backup` are command lines that work on a broker and then end; `look` is for ``rtprov doctor``. Only
this package imports the reactor. All other packages get clock, reactor and endpoints as arguments.
"""
