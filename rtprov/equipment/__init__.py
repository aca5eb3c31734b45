"""Service A: its HTTP client, its stub, and the validation of an order's body."""
