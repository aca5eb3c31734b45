"""``python -m rtprov.tokens new NAME`` makes a bearer token and its line for the file of tokens."""

from rtprov.security.tokens import main

if __name__ == "__main__":
    raise SystemExit(main())
