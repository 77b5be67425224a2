"""Whatever happens to the runs of a session: no operator beyond its cap, no kept window to a site, and the
file says all that was sent. `python -m benchmarks.exposure_machine` takes many more steps."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.exposure_machine import ExposureMachine

STEPS = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # the benchmark looks for the shortest steps, which takes minutes
)


def test_nothing_leaves_that_must_not() -> None:
    happened = ExposureMachine.happened
    happened.clear()
    run_state_machine_as_test(ExposureMachine, settings=STEPS)
    assert happened["steps"] > 1000
    for what in ("tiles sent", "frames done", "windows kept", "runs"):
        assert happened[what] > 20, what
