"""Service B, the front end: accepts tasks over HTTPS and answers questions about them."""
