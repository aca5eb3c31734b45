"""TLS, certificates, sealing keys, bearer tokens, and limits for each client."""
