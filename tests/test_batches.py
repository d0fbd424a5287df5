"A batch as a pure function of the step, schedules, seeds."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.batches import (
    Batches, array_digest, check_training, cosine_schedule, elu_dropout_schedule, one_cycle_schedule, pair, set_seed, step_schedule)


def one_line(error): return "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 50), size=st.integers(1, 50), seed=st.integers(0, 9), step=st.integers(0, 300))
def test_batches_are_a_function_of_the_step(n, size, seed, step):
    x = np.arange(n)
    if size > n:
        with pytest.raises(ValueError, match="make the batch smaller"): Batches(x, x, size)
        return
    def noisy(x, rng): return x + rng.random(x.shape)
    a, b = Batches(x, x, size, noisy, seed), Batches(x, x, size, noisy, seed)
    for _ in range(3): b.batch(0)
    assert all(np.array_equal(u, v) for u, v in zip(a.batch(step), next(b.stream(step))))
    assert sorted(a.order(2)) == list(range(n)) and len(a) == n // size
    # the steps of an epoch share no image, and images keep their labels
    chosen = [Batches(x, x, size, seed=seed).batch(s) for s in range(len(a))]
    assert len(np.unique(np.concatenate([images for images, _ in chosen]))) == len(a) * size
    assert all(np.array_equal(images, labels) for images, labels in chosen)


def test_batches_errors():
    x = np.zeros((4, 2))
    cases = {
        "seed must be": lambda: Batches(x, x, 1, seed=-1), "one label for each": lambda: Batches(x, x[:2], 1),
        "in 1..4, got 0": lambda: Batches(x, x, 0), "in 1..4, got 8.0": lambda: Batches(x, x, 8.0),
        "at least one": lambda: Batches(x[:0], x[:0], 1), "of at least 0, got -1": lambda: Batches(x, x, 2).batch(-1),
        "must be a pair": lambda: pair((x, x, x), "validation"), "validation must": lambda: pair(3, "validation")}
    for text, bad in cases.items():
        with pytest.raises(ValueError, match=text) as error: bad()
        assert one_line(error)
    with pytest.raises(ValueError, match="read-only"): Batches(x, x, 2).order(0).sort()
    assert Batches(x.tolist(), [0, 1, 2, 3], 2).batch(0)[1].shape == (2,)


def test_every_image_is_in_the_digest():
    x, y = np.zeros((2500, 3, 3, 1), "uint8"), np.zeros(2500, int)
    seen = {Batches(x, y, 8).digest()}
    for place in (0, 1, 999, 1000, 2499):  # a sample of 64 images would miss most of them
        changed = x.copy()
        changed[place, 2, 2, 0] = 1
        seen.add(Batches(changed, y, 8).digest())
    other = y.copy()
    other[7] = 1
    seen |= {Batches(x, other, 8).digest(), Batches(x, y, 9).digest(), Batches(x, y, 8, seed=1).digest()}
    assert len(seen) == 9
    assert Batches(x, y, 8).digest() == Batches(x.copy(), y.copy(), 8, transform=print).digest()
    assert array_digest(x) != array_digest(x.astype("int8")) != array_digest(x.reshape(2500, 9))


@settings(max_examples=25, deadline=None)
@given(peak=st.floats(1e-5, 10), total=st.integers(2, 10_000), share=st.floats(0, 0.9))
def test_schedules_stay_between_nothing_and_the_peak(peak, total, share):
    for schedule in (cosine_schedule(peak, total, int(share * total)), one_cycle_schedule(peak, total, share),
                     one_cycle_schedule(peak, total, share, shape="linear")):
        values = np.array([schedule(s) for s in range(0, total + 5, max(1, total // 50))])
        assert (values >= -1e-12).all() and (values <= peak * (1 + 1e-9)).all()


def test_schedules_of_the_papers():
    elu = step_schedule([0.01, 0.005, 0.0005, 0.00005], [35_000, 85_000, 135_000])
    assert [elu(s) for s in (0, 34_999, 35_000, 85_000, 164_999)] == [0.01, 0.01, 0.005, 0.0005, 0.00005]
    cosine = cosine_schedule(0.1, 100, warmup_steps=10, final=0.01)
    assert np.allclose([cosine(0), cosine(9), cosine(10), cosine(55), cosine(100), cosine(999)], [0.01, 0.1, 0.1, 0.055, 0.01, 0.01])
    linear = one_cycle_schedule(1.0, 101, rise=0.5, start=0.1, final=0.0, shape="linear")
    assert np.allclose([linear(0), linear(25), linear(50), linear(75), linear(100), linear(999)], [0.1, 0.55, 1, 0.5, 0, 0])
    dropout = elu_dropout_schedule(100)
    assert dropout(99)[:, 1].sum() == 0 and np.array_equal(dropout(100)[:, 0], dropout(100)[:, 1])
    assert np.allclose(dropout(50_100), 1.5 * dropout(100)) and dropout(0)[5].tolist() == [0.5, 0]
    for bad in (lambda: step_schedule([1], [2]), lambda: step_schedule([1, 2, 3], [5, 5]), lambda: step_schedule([1, 2], [0]),
                lambda: step_schedule([1, 0.1, 0.01], [0.5, 0.75]), lambda: cosine_schedule(0, 10), lambda: cosine_schedule(1, 10, 11),
                lambda: one_cycle_schedule(1, 0), lambda: one_cycle_schedule(1, 10, rise=1), lambda: one_cycle_schedule(1, 10, shape="square"),
                lambda: elu_dropout_schedule(10, factor=3), lambda: elu_dropout_schedule(0)):
        with pytest.raises(ValueError) as error: bad()
        assert one_line(error)


@pytest.mark.parametrize("call, text", [
    (lambda: step_schedule([1, 2, 3], [6, 5]), "a boundary must be an integer of at least 7, got 5; boundaries are whole numbers of steps that rise"),
    (lambda: step_schedule([1, 2, 3], [6, 6]), "at least 7, got 6"), (lambda: step_schedule([1, 2], [0]), "at least 1, got 0"),
    (lambda: step_schedule([1, 2], [5, 6]), "2 values need 1 boundaries, got 2"), (lambda: step_schedule(0.1, 5), "must be lists"),
    (lambda: elu_dropout_schedule(0), "first must be an integer of at least 1, got 0"), (lambda: elu_dropout_schedule("9"), "first must be an integer"),
    (lambda: elu_dropout_schedule(9, 0), "everywhere must be an integer of at least 1, got 0"),
    (lambda: elu_dropout_schedule(9, rates=[0, 1]), "a rate must be a number of at least 0|a rate must be a number below 1"),
    (lambda: elu_dropout_schedule(9, rates="no"), "a rate must be a number"), (lambda: elu_dropout_schedule(9, factor=-1), "factor must be a number above 0"),
    (lambda: elu_dropout_schedule(9, factor=2), "the largest rate times factor must be a number below 1, got 1.0")])
def test_phases_that_do_not_rise_are_refused(call, text):
    with pytest.raises(ValueError, match=text) as error: call()
    assert one_line(error)


def test_a_schedule_keeps_what_it_was_given():
    values, boundaries = [1, 2], [5]
    schedule = step_schedule(values, boundaries)
    values[0], boundaries[0] = 9, 1
    assert [schedule(s) for s in (0, 4, 5)] == [1, 1, 2]


def test_set_seed():
    set_seed(4)
    drawn = np.random.rand(3)
    set_seed(np.int64(4))
    assert np.array_equal(drawn, np.random.rand(3))
    for seed in (-1, 2**32, 1.5, True):
        with pytest.raises(ValueError, match="seed must be"): set_seed(seed)


def test_what_every_engine_asks():
    x, y = np.zeros((4, 2)), [0, 1, 0, 1]
    batches = Batches(x, y, 2)
    found = check_training(batches, (x.tolist(), y), 1, "val_loss", schedule=lambda step: 0.1, dropout=None)
    assert [type(part) for part in found] == [np.ndarray, np.ndarray] and check_training(batches, None, 1, "loss") is None
    for call, text in ((lambda: check_training(batches, None, 0, "loss"), "epochs must be"), (lambda: check_training((x, y), None, 1, "loss"), "must be Batches"),
                       (lambda: check_training(batches, None, 1, "val_loss"), "needs validation"), (lambda: check_training(batches, (x, y[:1]), 1, "loss"), "4 images but 1 labels"),
                       (lambda: check_training(batches, None, 1, "loss", rate=0.1), "rate must be a function of the step, got 0.1; write lambda step: 0.1")):
        with pytest.raises(ValueError, match=text) as error: call()
        assert one_line(error)
