import pytest

from voxelworks.jobs._failures import Failure, Failures, final_message, retry_number
from voxelworks.settings import Settings

SETTINGS = Settings()
LOST = Failure(
    "infrastructure", "lease-expired", "the worker was not heard from for 300 s", is_lost_lease=True
)


def _tries(failure):
    """Fail in the same way until it is not tried again, and count."""
    failures, tries = Failures(), 1
    while True:
        failures = failures.after(failure)
        if retry_number(failure, failures, SETTINGS) is None:
            return tries
        tries += 1


@pytest.mark.parametrize(
    ("failure_class", "tries"),
    [
        ("infrastructure", 4),
        ("resources", 3),
        ("user_input", 1),
        ("program_error", 1),
        ("timed_out", 1),
        ("cancelled", 1),
    ],
)
def test_the_class_of_a_failure_decides_how_often_a_job_is_tried(failure_class, tries):
    assert _tries(Failure(failure_class, "code", "message")) == tries


def test_a_job_that_lost_three_leases_is_poison():
    assert _tries(LOST) == 3


def test_classes_are_counted_apart():
    failures = Failures(infrastructure=3, resources=0, lost_leases=0)
    failure = Failure("resources", "memory", "needs 9 GiB")
    assert retry_number(failure, failures.after(failure), SETTINGS) == 1


def test_poison_says_so():
    message = final_message(LOST, Failures(infrastructure=3, lost_leases=3), SETTINGS)
    assert message == (
        "the job lost its worker 3 times and is not tried again; look whether it brings the worker down "
        "(the worker was not heard from for 300 s)"
    )


def test_a_failure_that_was_tried_again_says_how_often():
    failure = Failure("resources", "memory", "needs 9 GiB, 4 GiB are free")
    assert (
        final_message(failure, Failures(resources=3), SETTINGS)
        == "needs 9 GiB, 4 GiB are free (failed 3 times)"
    )


def test_a_single_failure_speaks_for_itself():
    failure = Failure("user_input", "mixed-sections", "b.tif is 3 x 4, a.tif 4 x 4")
    assert final_message(failure, Failures(), SETTINGS) == "b.tif is 3 x 4, a.tif 4 x 4"
