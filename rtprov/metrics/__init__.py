"""Metrics for Prometheus: counts and histograms for the hot paths, and the text of ``/metrics``."""
