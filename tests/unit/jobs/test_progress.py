from voxelworks.jobs._progress import add_sample, eta, newer
from voxelworks.protocol.messages import Progress
from voxelworks.protocol.views import EtaView


def _progress(done, phase="convert", total=100, number=0):
    return Progress(phase=phase, done=done, total=total, number=number)


def _samples(*pairs, total=100):
    samples, known = [], None
    for at_ms, done in pairs:
        samples = add_sample(samples, known, _progress(done, total=total), at_ms)
        known = _progress(done, total=total)
    return samples


def test_progress_never_goes_backwards_within_a_phase():
    assert newer(_progress(5), _progress(4)) == _progress(5)


def test_a_message_of_an_earlier_phase_that_arrives_late_is_ignored():
    later = _progress(0, "pyramid", number=8)
    assert newer(later, _progress(100, number=7)) == later
    assert newer(_progress(100, number=7), later) == later


def test_a_message_of_a_worker_that_does_not_count_is_believed():
    assert newer(_progress(100), _progress(0, "pyramid")) == _progress(0, "pyramid")
    assert newer(_progress(100, number=7), _progress(0, "pyramid")) == _progress(0, "pyramid")


def test_no_news_keep_what_is_known():
    assert newer(_progress(5), None) == _progress(5)


def test_a_steady_rate_gives_an_exact_remaining_time():
    samples = _samples((0, 0), (1000, 10), (2000, 20))
    assert eta(_progress(20), samples) == EtaView(low_s=8.0, high_s=8.0)


def test_an_unsteady_rate_gives_a_range():
    samples = _samples((0, 40), (1000, 42), (2000, 43), (3000, 45), (4000, 46))
    assert eta(_progress(46), samples) == EtaView(low_s=27.0, high_s=54.0)


def test_the_rate_is_that_of_the_last_tenth():
    slow_start = [(i * 10_000, i) for i in range(50)]
    fast_end = [(490_000 + (i + 1) * 1000, 50 + i) for i in range(20)]
    assert eta(_progress(69), _samples(*slow_start, *fast_end)) == EtaView(low_s=31.0, high_s=31.0)


def test_the_remaining_time_is_hidden_below_three_percent():
    assert eta(_progress(2), _samples((0, 0), (1000, 1), (2000, 2))) is None


def test_a_finished_phase_has_no_remaining_time():
    assert eta(_progress(100), _samples((0, 0), (1000, 50), (2000, 100))) is None


def test_one_report_tells_no_rate():
    assert eta(_progress(50), _samples((0, 50))) is None


def test_a_report_without_progress_tells_no_rate():
    assert _samples((0, 10), (1000, 10), (2000, 10)) == [[0, 10]]


def test_days_of_reports_stay_a_short_list():
    samples = _samples(*((i * 1000, i) for i in range(10_000)), total=10_000)
    assert len(samples) <= 64
    assert samples[-1] == [9_999_000, 9_999]
