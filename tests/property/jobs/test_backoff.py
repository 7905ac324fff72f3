from hypothesis import given
from hypothesis import strategies as st

from voxelworks.jobs._failures import backoff_s
from voxelworks.settings import Settings

retries = st.integers(1, 10_000)
fractions = st.floats(0, 1, exclude_max=True)
settings = st.builds(Settings, backoff_base_s=st.floats(0.001, 100), backoff_cap_s=st.floats(0.001, 10_000))


@given(retry=retries, fraction=fractions, chosen=settings)
def test_a_wait_is_never_negative_and_never_above_its_bound(retry, fraction, chosen):
    bound = min(chosen.backoff_cap_s, chosen.backoff_base_s * 2.0 ** min(retry - 1, 60))
    assert 0 <= backoff_s(retry, fraction, chosen) <= bound


@given(retry=retries, fraction=fractions, chosen=settings)
def test_a_later_retry_never_waits_less_for_the_same_draw(retry, fraction, chosen):
    assert backoff_s(retry, fraction, chosen) <= backoff_s(retry + 1, fraction, chosen)


@given(retry=st.integers(6, 10_000), fraction=fractions)
def test_the_usual_bounds_are_30_seconds_doubling_up_to_15_minutes(retry, fraction):
    chosen = Settings()
    assert backoff_s(1, 0.5, chosen) == 15
    assert backoff_s(2, 0.5, chosen) == 30
    assert backoff_s(retry, fraction, chosen) == fraction * 900
