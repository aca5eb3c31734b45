"""Tests of the verbs that ask service B, in memory."""
