"""One HTTP edge for all servers: limits on every request, admission, and answers in one form."""
