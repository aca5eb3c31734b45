"""rtprov puts an asynchronous HTTPS interface in front of a synchronous provisioning service."""

__version__ = "0.3.0.dev0"
