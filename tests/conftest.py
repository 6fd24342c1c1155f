"""Hypothesis: the same examples on every run, and more of them with `--hypothesis-profile=search`."""

import on_device
from hypothesis import HealthCheck, settings


def pytest_configure(config):
    on_device.asked_for = config.option.markexpr.strip() == "gpu"


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
