import pytest

from voxelworks.testing.clocks import moved_clock
from voxelworks.testing.ledgers import Ledger


@pytest.fixture
def ledger(database, tmp_path):
    """A ledger without free credits, on each database."""
    ledger = Ledger.over(database, tmp_path)
    yield ledger
    # Whatever a test did: the books are right.
    ledger.must_be_right()


@pytest.fixture
def clock(database):
    """The clock of the database, which stands where it is set; at first in the middle of a month."""
    with moved_clock(database, 1_773_576_000_000) as clock:  # 15 March 2026, 12:00 UTC
        yield clock
