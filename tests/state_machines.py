"""Runs state machines of hypothesis on a database of their own for each example."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


def run(machine, open_database, *, examples, steps):
    """Run a machine whose examples each open a database with its `open_database`."""
    opening = type(machine.__name__, (machine,), {"open_database": staticmethod(open_database)})
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    run_state_machine_as_test(opening, settings=chosen)
