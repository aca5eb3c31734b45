"""The command line ``rtprov``.

Most verbs are HTTPS clients of service B. Others edit local files (``key``, ``token``), work on a
broker (``shards``, ``move``, ``backup``, ``restore``) or run a role (``run``); `main` lists them. A
verb's module is imported when it runs, so ``rtprov --help`` does not import the server. The options
of the twistd commands are in `rtprov.tap.options`.
"""
