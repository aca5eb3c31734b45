"""Real processes: twistd, HTTPS, signals."""
