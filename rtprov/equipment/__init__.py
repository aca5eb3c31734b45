"""Service A: the client that calls it, the stub that stands in for it, and what the body of an
order may hold.
"""
