"""The ended tasks of a worker on disk, beyond the retention: SQLite files by day."""
