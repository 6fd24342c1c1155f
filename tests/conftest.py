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


# Parameters of each test that the emulated GPU is tried with, spread over all there are.
_EMULATED = 2


def pytest_collection_modifyitems(config, items):
    """Take a few of the parameters of tests that are run on the emulated GPU."""
    groups = {}
    for item in items:
        if item.path.name == "test_gpu_emulated.py" and item.function.__module__.endswith("_on_device"):
            groups.setdefault(item.originalname, []).append(item)
    dropped = set()
    for group in groups.values():
        step = max(1, -(-len(group) // _EMULATED))
        dropped |= {item for place, item in enumerate(group) if (place + 1) % step and len(group) > _EMULATED}
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = [item for item in items if item not in dropped]
