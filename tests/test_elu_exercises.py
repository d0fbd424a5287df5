"The exercises of the ELU lesson: right answers in different styles, plausible wrong ones, hints that give nothing away."
import contextlib
import functools
import io
import math

import numpy as np
import pytest

from hierlearn.exercises.elu_cifar100 import SMALL_STACKS, check, exercises, shapes_task

PAPER = np.array([0, .1, .2, .3, .4, .5, 0])
PHI_0, PHI_BELOW = 1 / math.sqrt(2 * math.pi), (1 + math.erf(-1 / math.sqrt(2))) / 2


def exact(alpha): return PHI_0 + alpha * (math.exp(.5) * PHI_BELOW - .5)
def elu(x, alpha): return np.where(x > 0, x, alpha * np.expm1(x))
def drawn(n=1_000_000, seed=1): return lambda alpha: elu(np.random.default_rng(seed).normal(size=n), alpha).mean()


def integrated(alpha):
    x = np.linspace(-12, 12, 200_001)
    return float((elu(x, alpha) * np.exp(-x**2 / 2)).sum() * (x[1] - x[0]) * PHI_0)


def sides(side, pools, padding, extra=0):
    out = []
    for _ in range(pools):
        if padding == "valid" and side < 2: break
        side = (side + (padding == "same")) // 2
        out.append(side)
    return out


class Grows:
    "A schedule that remembers: each look at the last phase makes the rates larger."
    def __init__(self): self.rates = PAPER.copy()

    def __call__(self, iteration):
        if iteration >= 215_000: self.rates = self.rates * 1.5
        return self.rates


HEAD, SECOND, THIRD = 577 * 96, 385 * 128, 513 * 128
RIGHT = {
    "stack-parameters": [HEAD + SECOND + THIRD, np.float64(170_336)],
    "slope-from-output": [lambda f, alpha: [1 if v > 0 else alpha + v for v in f], lambda f, alpha: (f > 0) + (f <= 0) * (f + alpha),
                          lambda f, alpha: np.minimum(f, 0) + np.where(f > 0, 1.0, alpha)],
    "sides-after-pools": [sides, lambda s, p, padding: np.array(sides(s, p, padding)), lambda s, p, padding: tuple(map(float, sides(s, p, padding)))],
    "one-kernel": [np.convolve, lambda a, b: [sum(a[i] * b[k - i] for i in range(len(a)) if 0 <= k - i < len(b)) for k in range(len(a) + len(b) - 1)]],
    "schedule-bugs": [lambda i: PAPER * (1.5 if i >= 215_000 else 1), lambda i: [r * 3 / 2 for r in PAPER] if i > 214_999 else PAPER.tolist(),
                      lambda i: PAPER + PAPER / 2 * (i // 215_000 > 0)],
    "mean-of-elu": [(exact, drawn()), [integrated, lambda alpha: float(np.mean([elu(v, alpha) for v in np.random.default_rng(2).normal(size=(20, 50_000))]))]],
    "zero-mean-alpha": [1.673, np.float32(1.67326), 1.6733],
}
WRONG = {
    "stack-parameters": [HEAD + SECOND, 9 * 64 * 96 + 4 * 96 * 128 + 4 * 128 * 128, HEAD + 2 * SECOND, HEAD + THIRD, 170_337, "170336", [HEAD, SECOND, THIRD],
                         65 * 96 + 97 * 128 + 129 * 128, (9 * 3 + 1) * 96 + SECOND + THIRD],
    "slope-from-output": [lambda f, alpha: f, lambda f, alpha: np.where(f > 0, 1, f), lambda f, alpha: np.where(f > 0, 1, f + 1), lambda f, alpha: f + alpha,
                          lambda f, alpha: np.where(f > 0, 1, alpha * np.exp(f)), lambda f, alpha: np.where(f > 0, f, f + alpha), lambda f, alpha: np.where(f > 0, 1, 0),
                          lambda f, alpha: 1.0, lambda f, alpha: np.where(f > 0, 1, alpha - f)],
    "sides-after-pools": [lambda s, p, padding: [s >> i for i in range(1, p + 1)], lambda s, p, padding: [-(-s // 2**i) for i in range(1, p + 1)],
                          lambda s, p, padding: [s, *sides(s, p, padding)], lambda s, p, padding: sides(s, p, padding)[-1:], lambda s, p, padding: sides(32, p, padding),
                          lambda s, p, padding: [s / 2**i for i in range(1, p + 1)], lambda s, p, padding: sides(s, 7, padding),
                          lambda s, p, padding: (sides(s, p, padding) + [0] * p)[:p], lambda s, p, padding: [round(s / 2**i) for i in range(1, p + 1)],
                          lambda s, p, padding: sides(s, p, "same") if s % 2 else sides(s, p, padding)],
    "one-kernel": [lambda a, b: a * b if len(a) == len(b) else a, lambda a, b: np.convolve(a, b[::-1]), lambda a, b: np.convolve(a, b)[::-1], lambda a, b: np.outer(a, b),
                   lambda a, b: np.convolve(a, b, "same"), lambda a, b: np.concatenate([a, b])[:-1], lambda a, b: np.convolve(a, b, "valid"), lambda a, b: b],
    "schedule-bugs": [lambda i: PAPER * (1.5 if i > 215_000 else 1), lambda i: PAPER * (2.5 if i >= 215_000 else 1), lambda i: PAPER * (1.5 if i >= 215 else 1), Grows().__call__,
                      lambda i: PAPER, lambda i: .5 + PAPER, lambda i: PAPER * (1.5 if i >= 165_000 else 1), lambda i: np.minimum(PAPER + .5 * (i >= 215_000), .75),
                      lambda i: PAPER * (1.5 if i == 215_000 else 1), lambda i: 1.5 if i >= 215_000 else 1.0, lambda i: 1.5 * PAPER],
    "mean-of-elu": [(lambda alpha: PHI_0, drawn()), (lambda alpha: 0.0, drawn()), (lambda alpha: exact(1), drawn()), (exact, exact), (exact, lambda alpha: drawn()(1)),
                    (lambda alpha: PHI_0 + alpha * (PHI_BELOW - .5), drawn()), (lambda alpha: PHI_0 - alpha * (math.exp(.5) * PHI_BELOW - .5), drawn()),
                    (lambda alpha: exact(alpha) - PHI_0, drawn()), (exact, lambda alpha: elu(np.random.default_rng(0).random(10**6), alpha).mean()),
                    (exact, lambda alpha: elu(np.random.default_rng(0).normal(size=10**6).mean(), alpha)), (exact, drawn(50)), exact, 0.1605, (exact, 0.1605)],
    "zero-mean-alpha": [1, 0, -1.673, 1.6, 1.68, 1.0507, "1.673", PHI_0, [1.673], float("nan"), math.inf],
}
# what no hint may say
SECRETS = {"stack-parameters": ("170336", "170,336", "577", "385", "513"), "slope-from-output": ("f + ", "α + ", "alpha + "), "sides-after-pools": ("ceil", "//", "round"),
           "one-kernel": ("convol",), "schedule-bugs": ("215.000", "2.5", "1.5", ">="), "mean-of-elu": ("0.160", "0.16", "0.5)", "Φ(-1)"), "zero-mean-alpha": ("1.67", "SELU")}


def told(name, answer):
    "Is the answer right, and what is said of it?"
    with contextlib.redirect_stdout(io.StringIO()) as said: right = check(name, answer)
    return right, said.getvalue()


def numbered(answers): return [(name, i) for name in answers for i in range(len(answers[name]))]


def test_every_exercise_is_tried():
    assert [*RIGHT, "one-elu-a-stack"] == [*WRONG, "one-elu-a-stack"] == list(exercises.names)
    assert min(map(len, WRONG.values())) >= 5 and min(map(len, RIGHT.values())) >= 2


@pytest.mark.parametrize("name, number", numbered(RIGHT))
def test_right_answers(name, number):
    right, said = told(name, RIGHT[name][number])
    assert right, said


@pytest.mark.parametrize("name, number", numbered(WRONG))
def test_wrong_answers(name, number):
    right, said = told(name, WRONG[name][number])
    assert not right and said.startswith(f"✗ {name}: ") and "raised" not in said, said
    assert not any(secret in said for secret in SECRETS[name]), said


# the experiment: networks that the checker looks into

@pytest.fixture(scope="module")
def arms():
    "Three small networks of each arm, hardly trained, and their gain with its interval."
    import keras

    from hierlearn.elu_cifar100 import build_elu_cnn
    images, labels, *_ = shapes_task()
    nets = {"layer": [], "stack": []}
    for arm in nets:
        for seed in range(3):
            keras.utils.set_random_seed(seed)
            net = build_elu_cnn(SMALL_STACKS, 5, activation_per=arm, dropout=(), input_shape=(16, 16, 3))
            net.compile(keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            net.fit(images, labels, batch_size=50, epochs=4, verbose=0)
            nets[arm].append(net)
    return nets


@functools.cache
def score(net):
    *_, images, labels = shapes_task()
    return float((np.asarray(net.predict(images, batch_size=500, verbose=0)).argmax(1) == labels).mean())


def result(nets, factor=4.303, ddof=1, sign=1):
    gains = sign * np.array([score(a) - score(b) for a, b in zip(nets["layer"], nets["stack"])])
    half = factor * gains.std(ddof=ddof) / math.sqrt(len(gains))
    return {**nets, "gain": gains.mean(), "interval": (gains.mean() - half, gains.mean() + half)}


def test_the_task_is_the_same_each_time():
    images, labels, val_images, val_labels = shapes_task()
    assert images.shape == (1000, 16, 16, 3) and val_images.shape == (500, 16, 16, 3) and len(labels) == 1000
    assert {*val_labels} == {*labels} == set(range(5)) and abs(images.mean()) < 1e-3 and .5 < images.std() < 1
    assert np.array_equal(images, shapes_task()[0])


def test_the_experiment_is_accepted(arms):
    answer = result(arms)
    right, said = told("one-elu-a-stack", answer)
    assert right and "with 3 seeds" in said, said
    other = {"interval": [*map(float, answer["interval"])], "gain": round(float(answer["gain"]), 4), "stack": tuple(arms["stack"]), "layer": tuple(arms["layer"])}
    assert told("one-elu-a-stack", other)[0]


def test_the_experiment_is_refused(arms):
    from hierlearn.elu_cifar100 import build_elu_cnn
    build = lambda **settings: build_elu_cnn(SMALL_STACKS, 5, dropout=(), input_shape=(16, 16, 3), **settings)
    right, layer, stack = result(arms), arms["layer"], arms["stack"]
    fresh = {"layer": [build() for _ in range(3)], "stack": [build(activation_per="stack") for _ in range(3)]}
    swapped = {"layer": stack, "stack": layer}
    wide = [build(width=2, activation_per="stack") for _ in range(3)]
    low, high = right["interval"]
    wrong = {
        "swapped": ({**result(swapped)}, "every layer"), "two alike": (result({"layer": layer, "stack": layer[::-1]}), "of its own"),
        "both bend": ({**right, "stack": fresh["layer"]}, "bend after every layer"), "wider": ({**right, "stack": wide}, "count of parameters"),
        "two seeds": (result({arm: nets[:2] for arm, nets in arms.items()}), "three"), "unpaired": ({**right, "stack": stack[:2]}, "paired"),
        "untrained": (result(fresh), "chance"), "the other way round": (result(arms, sign=-1), "way round"), "percent": ({**right, "gain": 100 * right["gain"]}, "share of 1"),
        "normal factor": (result(arms, factor=1.96), "Student"), "n below the sum": (result(arms, ddof=0), "Student"),
        "one end": ({**right, "interval": high}, "two ends"), "turned": ({**right, "interval": (high, low)}, "pair"), "no interval": ({k: v for k, v in right.items() if k != "interval"}, "answer for"),
        "accuracies": ({**right, "layer": [.5, .6, .5], "stack": [.4, .4, .3]}, "networks themselves"),
    }
    for what, (answer, word) in wrong.items():
        passed, said = told("one-elu-a-stack", answer)
        assert not passed and word in said, f"{what}: {said}"
