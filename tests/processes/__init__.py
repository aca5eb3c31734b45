"""Tests of real processes: twistd commands, HTTPS and signals."""
