"""The command line ``rtprov``.

Its verbs work on local files and connections so far, and each is a module that can also be run with
``python -m``. The server is imported by the verb that needs it, when it runs: ``rtprov --help`` is
there at once.
"""
