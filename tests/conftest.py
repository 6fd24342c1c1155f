"""Hypothesis: the same examples on every run, and more of them with `--hypothesis-profile=search`."""

from hypothesis import HealthCheck, settings

# No deadlines: a property is not a benchmark, and the first call of a window compiles it.
settings.register_profile(
    "repeatable",
    max_examples=80,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
