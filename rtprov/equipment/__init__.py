"""Service A: its HTTP client and its stub."""
