"""Keys, certificates, tokens and rate limits."""
