from voxelworks.blocks.threads import core_count, thread_environment, threads_per_slot


def test_the_cores_are_shared_out_between_slots():
    assert threads_per_slot(1) == core_count()
    assert threads_per_slot(core_count()) == 1
    assert threads_per_slot(10 * core_count()) == 1


def test_every_library_gets_the_same_number_of_threads():
    assert set(thread_environment(3).values()) == {"3"}
