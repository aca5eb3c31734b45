"""The verbs of ``rtprov``, a module for each group of them."""
