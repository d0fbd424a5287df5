"The exercises of coarse extraction: right answers in different styles, plausible wrong ones, hints that give nothing away."
import math

import numpy as np
import pytest

from hierlearn.exercises.coarse_extraction import check, exercises


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def rows(q): return q / q.sum(1, keepdims=True)
def sums(p, groups): return np.stack([p[:, g].sum(1) for g in groups], 1)
def means(p, groups): return np.stack([p[:, g].mean(1) for g in groups], 1)


def merged(w, b, groups): return np.stack([w[:, g].mean(1) for g in groups], 1), np.array([b[g].mean() for g in groups])


RIGHT = {
    "prior": [math.log(59 / 6), np.float32(2.2858), 2.29],
    "padding": [{"mean": "down", "log_sum_exp": "same", "log_mean_exp": "down"}, {"log_mean_exp": "down", "mean": "down", "log_sum_exp": "same"}],
    "marginal": [lambda z, g: rows(sums(softmax(z), g)), lambda z, g: [list(r) for r in rows(sums(softmax(z), g))]],
    "merge-head": [merged, lambda w, b, g: list(merged(w, b, g))],
    "prior-shift": [lambda z, g, prior: rows(means(softmax(z), g) * prior), lambda z, g, prior: rows(means(softmax(z), g) * np.array(prior)).tolist()],
}
WRONG = {
    "prior": [59 / 6, 53, -math.log(59 / 6), math.log10(59 / 6), 59 - 6, "2.29", [2.2858, 0]],
    "padding": [{"mean": "down", "log_sum_exp": "same", "log_mean_exp": "same"}, {"mean": "same", "log_sum_exp": "same", "log_mean_exp": "down"},
                {"mean": "down", "log_sum_exp": "up", "log_mean_exp": "down"}, {"mean": "down"}, "down", {"mean": -1, "log_sum_exp": 0, "log_mean_exp": -1}],
    "marginal": [lambda z, g: sums(softmax(z), g), lambda z, g: rows(means(softmax(z), g)), lambda z, g: softmax(np.stack([z[:, i].mean(1) for i in g], 1)),
                 lambda z, g: rows(sums(np.exp(z), g)), lambda z, g: rows(sums(softmax(z), g)).T, lambda z, g: np.log(rows(sums(softmax(z), g))),
                 lambda z, g: rows(np.stack([softmax(z)[:, i].max(1) for i in g], 1))],
    "merge-head": [lambda w, b, g: merged(w, b, g)[0], lambda w, b, g: (np.stack([w[:, i].sum(1) for i in g], 1), merged(w, b, g)[1]),
                   lambda w, b, g: (merged(w, b, g)[0], np.array([b[i].sum() for i in g])), lambda w, b, g: (merged(w, b, g)[0].T, merged(w, b, g)[1]),
                   lambda w, b, g: (merged(w, b, g)[0], np.zeros(len(g)))],
    "prior-shift": [lambda z, g, prior: rows(sums(softmax(z), g) * prior), lambda z, g, prior: rows(means(softmax(z), g)), lambda z, g, prior: means(softmax(z), g) * prior,
                    lambda z, g, prior: rows(means(np.exp(z), g) * prior), lambda z, g, prior: rows(means(softmax(z), g) + prior), lambda z, g, prior: np.tile(prior, (len(z), 1))],
}


def test_every_exercise_is_tried():
    assert exercises.names == ("marginal", "prior", "padding", "merge-head", "prior-shift")
    assert set(RIGHT) == set(WRONG) == set(exercises.names) and min(map(len, WRONG.values())) >= 5


@pytest.mark.parametrize("name, number", [(name, i) for name, answers in RIGHT.items() for i in range(len(answers))])
def test_right_answers(name, number, capsys): assert check(name, RIGHT[name][number]), capsys.readouterr().out


@pytest.mark.parametrize("name, number", [(name, i) for name, answers in WRONG.items() for i in range(len(answers))])
def test_wrong_answers(name, number, capsys):
    assert not check(name, WRONG[name][number])
    said = capsys.readouterr().out
    for secret in ("2.28", "2.29", "log(59", "log_mean_exp is", "log_sum_exp is"): assert secret not in said
