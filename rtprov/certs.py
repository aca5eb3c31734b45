"""``python -m rtprov.certs DIR`` creates development certificates and a sealing key in DIR."""

from rtprov.security.development import main

if __name__ == "__main__":
    raise SystemExit(main())
