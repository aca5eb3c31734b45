"""Tests of ``rtprov doctor``: each makes a real mistake."""
