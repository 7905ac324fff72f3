import pickle

import pytest

from voxelworks.blocks.executor import (
    SerialExecutor,
    WorkerDied,
    make_executor,
    pack,
    perform_packed,
    unpack_outcome,
)
from voxelworks.blocks.local import LocalExecutor
from voxelworks.errors import InvalidInput


def test_blocks_run_in_processes_of_this_machine_unless_told_otherwise():
    assert isinstance(make_executor(None, 3), LocalExecutor)
    assert make_executor(None, 3).slots == 3
    with make_executor("serial", 3) as executor:
        assert isinstance(executor, SerialExecutor)
        assert executor.slots == 1


def test_a_cluster_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InvalidInput) as caught:
        make_executor("slurn", 2)
    assert caught.value.message == (
        "'slurn' is not a cluster; give the address of a Dask scheduler (tcp://HOST:PORT), its scheduler file (.json), "
        "or one of dask, slurm, pbs, sge, lsf, oar, htcondor"
    )


def test_a_packed_block_gives_a_packed_outcome():
    assert unpack_outcome(perform_packed(pack(abs, -5))).result == 5


def test_a_block_that_cannot_be_loaded_gives_an_error():
    error = unpack_outcome(perform_packed(b"not a pickle")).error
    assert isinstance(error, TypeError)
    assert str(error).startswith("a worker cannot load the block: ")


@pytest.mark.parametrize(
    ("exit_code", "sentence"),
    [
        (-9, "its process was killed by SIGKILL"),
        (3, "its process ended with exit status 3"),
        (None, "its process was killed"),
    ],
)
def test_the_death_of_a_worker_is_told_in_words(exit_code, sentence):
    assert str(pickle.loads(pickle.dumps(WorkerDied(exit_code)))) == sentence
