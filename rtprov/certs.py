"""``python -m rtprov.certs DIR`` makes development certificates and a sealing key."""

from rtprov.security.development import main

if __name__ == "__main__":
    raise SystemExit(main())
