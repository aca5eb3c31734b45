"""Where the embedded broker keeps what must survive it: in memory, or in a SQLite file."""
