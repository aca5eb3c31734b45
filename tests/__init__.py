"""The tests of rtprov. Hypothesis is set up to run the same examples each time, without a
deadline.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "rtprov", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("rtprov")
