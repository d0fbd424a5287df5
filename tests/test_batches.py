"A batch as a pure function of the step, schedules, seeds."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.batches import (
    Batches, cosine_schedule, elu_dropout_schedule, one_cycle_schedule, set_seed, step_schedule)


def one_line(error): return "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 50), size=st.integers(1, 50), seed=st.integers(0, 9), step=st.integers(0, 300))
def test_batches_are_a_function_of_the_step(n, size, seed, step):
    x = np.arange(n)
    if size > n:
        with pytest.raises(ValueError, match="make the batch smaller"): Batches(x, x, size)
        return
    a = Batches(x, x, size, lambda x, rng: x + rng.random(x.shape), seed)
    b = Batches(x, x, size, lambda x, rng: x + rng.random(x.shape), seed)
    for _ in range(3): b.batch(0)
    assert all(np.array_equal(u, v) for u, v in zip(a.batch(step), next(b.stream(step))))
    assert sorted(a.order(2)) == list(range(n)) and len(a) == n // size


def test_batches_errors():
    with pytest.raises(ValueError, match="seed must be"): Batches(np.zeros(3), np.zeros(3), 1, seed=-1)
    with pytest.raises(ValueError, match="one label for each"): Batches(np.zeros(3), np.zeros(2), 1)
    with pytest.raises(ValueError, match="between 1 and"): Batches(np.zeros(3), np.zeros(3), 0)


@settings(max_examples=25, deadline=None)
@given(peak=st.floats(1e-5, 10), total=st.integers(2, 10_000), share=st.floats(0, 0.9))
def test_schedules_stay_between_nothing_and_the_peak(peak, total, share):
    for schedule in (cosine_schedule(peak, total, int(share * total)), one_cycle_schedule(peak, total, share), one_cycle_schedule(peak, total, share, shape="linear")):
        values = np.array([schedule(s) for s in range(0, total + 5, max(1, total // 50))])
        assert (values >= -1e-12).all() and (values <= peak * (1 + 1e-9)).all()


def test_schedules_of_the_papers():
    elu = step_schedule([0.01, 0.005, 0.0005, 0.00005], [35_000, 85_000, 135_000])
    assert [elu(s) for s in (0, 34_999, 35_000, 85_000, 164_999)] == [0.01, 0.01, 0.005, 0.0005, 0.00005]
    dropout = elu_dropout_schedule(100)
    assert dropout(99)[:, 1].sum() == 0 and np.array_equal(dropout(100)[:, 0], dropout(100)[:, 1])
    assert np.allclose(dropout(50_100), 1.5 * dropout(100))
    for bad in (lambda: step_schedule([1], [2]), lambda: step_schedule([1, 2, 3], [5, 5]), lambda: cosine_schedule(0, 10), lambda: cosine_schedule(1, 10, 11), lambda: one_cycle_schedule(1, 0),
                lambda: one_cycle_schedule(1, 10, rise=1), lambda: one_cycle_schedule(1, 10, shape="square"), lambda: elu_dropout_schedule(10, factor=3)):
        with pytest.raises(ValueError) as error: bad()
        assert one_line(error)
