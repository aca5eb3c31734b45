"""The tests of rtprov. Hypothesis is set up to run the same examples each time, without a
deadline. "tox -e quick" has a quarter of them.
"""

from hypothesis import HealthCheck, settings

from tests.support.scale import QUICK

settings.register_profile(
    "rtprov",
    deadline=None,
    derandomize=True,
    max_examples=25 if QUICK else 100,
    # The two runs of `tests.support.both_ways` have one test case each, and the same examples.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("rtprov")
