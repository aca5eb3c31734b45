"""``python -m rtprov.tokens new NAME`` creates a bearer token and its line for the tokens file."""

from rtprov.security.tokens import main

if __name__ == "__main__":
    raise SystemExit(main())
