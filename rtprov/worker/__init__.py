"""The worker: takes tasks from the broker, calls service A for each, and records the outcome in the
journal.
"""
