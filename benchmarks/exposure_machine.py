"""How many steps of the exposure machine pass: runs of a session with faults by chance, in which no operator
may see more than its cap and no kept window may leave (tests/support/exposure_machine.py).

    python -m benchmarks.exposure_machine --steps 1000000 --minutes 60

A step is a rule of the machine: up to three frames at once, a run that begins, a site that goes down. It ends
with an error and the shortest steps to it when something leaves that must not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.machine import commit, describe
from tests.support.exposure_machine import ExposureMachine

STEPS_EACH = 50  # of one machine
MACHINES = 50  # of one call of Hypothesis, which looks for new steps within it


def run(steps: int, minutes: float) -> dict[str, object]:
    """Take so many steps, or as many as there are minutes for."""
    started, measured = time.perf_counter(), commit()
    happened = ExposureMachine.happened
    happened.clear()
    chosen = settings(
        max_examples=MACHINES,
        stateful_step_count=STEPS_EACH,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    while happened["steps"] < steps and time.perf_counter() - started < 60 * minutes:
        run_state_machine_as_test(ExposureMachine, settings=chosen)
        print(f"{happened['steps']} steps, {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "machine": describe(),
        "commit": measured,
        "seconds": round(time.perf_counter() - started),
        "violations": 0,  # the first one would have ended this
        **{name: happened[name] for name in ("steps", *sorted(set(happened) - {"steps"}))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=120.0, help="the most it may take")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/exposure_machine.json"))
    options = parser.parse_args()
    os.nice(19 - os.nice(0))
    found = run(options.steps, options.minutes)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
