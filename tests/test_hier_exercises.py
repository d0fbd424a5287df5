"The exercises of parent and child heads: right answers in different styles, plausible wrong ones, hints that give nothing away."
from fractions import Fraction

import numpy as np
import pytest

from hierlearn.basics import import_torch

torch = pytest.importorskip("torch") and import_torch()
from hierlearn.exercises.hier_resnet import check, exercises  # noqa: E402
from hierlearn.hier_features import freeze  # noqa: E402
from hierlearn.new_class import imprint, unit  # noqa: E402

nn = torch.nn


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def even(parents, labels): return (parents == parents[labels][:, None]) / (parents == parents[labels][:, None]).sum(1, keepdims=True)
def cross(z, y): return -log_softmax(z)[np.arange(len(y)), y]
def entropy(u): return -(u * np.log(np.where(u > 0, u, 1))).sum(1)


def smoothed(z, y, parents, mu):
    u = even(parents, y)
    return (cross(z, y) + mu * (-(u * log_softmax(z)).sum(1) - entropy(u))).mean()


def by_torch(z, y, parents, mu):
    p, u = torch.tensor(z).log_softmax(1), torch.tensor(even(parents, y))
    return torch.nn.functional.nll_loss(p, torch.tensor(y)) + mu * torch.nn.functional.kl_div(p, u, reduction="batchmean")


def without_the_true_class(parents, y):
    u = (parents == parents[y][:, None]).astype(float)
    u[np.arange(len(y)), y] = 0
    return u / np.maximum(u.sum(1, keepdims=True), 1)


class Still(nn.Module):
    "A network that stays in evaluation, wrapped round another."
    def __init__(self, network):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode=True): return super().train(False)
    def forward(self, x): return self.network(x)


def no_gradients(network): return network.requires_grad_(False)
def evaluation(network): return network.eval().requires_grad_(False)


def top_parts_only(network):
    network.eval().requires_grad_(False)
    for part in network:
        if isinstance(part, (nn.BatchNorm2d, nn.Dropout)): part.train = lambda mode=True, part=part: part
    return network


def all_but_dropout(network):
    network.eval().requires_grad_(False)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d): part.train = lambda mode=True, part=part: part
    return network


def no_momentum(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d): part.momentum, part.num_batches_tracked = 0.0, None
        if isinstance(part, nn.Dropout): part.p = 0.0
    return network.requires_grad_(False)


def no_statistics(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d): part.track_running_stats, part.running_mean, part.running_var, part.num_batches_tracked = False, None, None, None
        if isinstance(part, nn.Dropout): part.p = 0.0
    return network.requires_grad_(False)


def still_but_learning(network):
    network.eval()
    for part in network.modules(): part.train = lambda mode=True, part=part: part


def fresh_statistics(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d): part.reset_running_stats()
    return freeze(network)


def in_place(network):  # another style: the type of each part forgets how to train
    network.eval()
    for weights in network.parameters(): weights.requires_grad = False
    for part in network.modules(): part.train = part.eval if not list(part.children()) else (lambda mode=True, part=part: part)


def row(x, c):
    u = (x - c) / np.sqrt(((x - c) ** 2).sum(1))[:, None]
    return u.sum(0) / np.sqrt((u.sum(0) ** 2).sum())


def unit_rows(x): return x / np.linalg.norm(x, axis=-1, keepdims=True)


RIGHT = {
    "severity": [[1, 2, 3, 1, 0], (1.0, 2.0, 3.0, 1.0, 0.0), np.array([1, 2, 3, 1, 0])],
    "least-cost": [lambda p, c: (p @ c.T).argmin(1), lambda p, c: [min(range(len(c)), key=lambda k: sum(c[k] * row)) for row in p],
                   lambda p, c: np.einsum("nj,kj->nk", p, c).argmin(-1).astype("int32")],
    "down-the-tree": [(0.1, 0.12), [Fraction(1, 10), Fraction(3, 25)], np.array([0.1, 0.12], "float32")],
    "smoothing": [smoothed, by_torch],
    "freeze": [freeze, Still, in_place],
    "mean-length": [lambda k, c: np.sqrt((1 + (k - 1) * c) / k), lambda k, c: max(c + (1 - c) / k, 0) ** 0.5],
    "new-row": [lambda x, c: imprint(unit(x, c)), row, lambda x, c: row(x, c).tolist()],
}
WRONG = {
    "severity": [[2, 4, 5, 2, 0], [1, 2, 2, 1, 0], [1, 2, 3, 1, 1], [1 / 3, 2 / 3, 1, 1 / 3, 0], [1, 2, 3, 2, 0], [2, 1, 0, 1, 3], [3, 2, 1, 3, 0], [1, 2, 3, 1], "12310",
                 [1, 1, 1, 1, 0]],
    "least-cost": [lambda p, c: p.argmax(1), lambda p, c: (p @ c[:4]).argmin(1), lambda p, c: (p @ c.T).min(1), lambda p, c: (p @ c.T).argmax(1), lambda p, c: p @ c.T,
                   lambda p, c: (p @ c[:4].T).argmin(1), lambda p, c: c[:, p.argmax(1)].argmin(0), lambda p, c: (p @ c).argmin(1), lambda p, c: int((p @ c.T).sum(0).argmin()),
                   lambda p, c: np.eye(5)[(p @ c.T).argmin(1)]],
    "down-the-tree": [(0.25, 0.6), (0.4, 0.12), (0.125, 0.6), (0.2, 0.12), (0.12, 0.1), (1.55, 0.8), 0.1, "0.1, 0.12", (0.1, 0.6), (10, 12)],
    "smoothing": [
        lambda z, y, parents, mu: (cross(z, y) + mu * (-(even(parents, y) * z).sum(1) - entropy(even(parents, y)))).mean(),  # the source's: logits
        lambda z, y, parents, mu: (cross(z, y) - mu * (even(parents, y) * log_softmax(z)).sum(1)).mean(),  # a cross-entropy, no divergence
        lambda z, y, parents, mu: (cross(z, y) - mu * (log_softmax(z).mean(1) + np.log(z.shape[1]))).mean(),  # over all classes
        lambda z, y, parents, mu: ((1 - mu) * cross(z, y) + mu * (-(even(parents, y) * log_softmax(z)).sum(1) - entropy(even(parents, y)))).mean(),
        lambda z, y, parents, mu: (cross(z, y) + mu * (-(without_the_true_class(parents, y) * log_softmax(z)).sum(1) - entropy(without_the_true_class(parents, y)))).mean(),
        lambda z, y, parents, mu: cross(z, y).mean() + mu * (-(even(parents, y) * log_softmax(z)).sum(1) - entropy(even(parents, y))).mean() / z.shape[1],  # "mean"
        lambda z, y, parents, mu: smoothed(z, y, parents, mu) * len(y),  # a sum over the pictures
        lambda z, y, parents, mu: cross(z, y) + mu * (-(even(parents, y) * log_softmax(z)).sum(1) - entropy(even(parents, y))),  # (N,)
        lambda z, y, parents, mu: -np.log(np.exp(z) / np.exp(z).sum(1, keepdims=True))[np.arange(len(y)), y].mean() + smoothed(z, y, parents, mu) - cross(z, y).mean(),  # overflows
        lambda z, y, parents, mu: smoothed(z, y, parents, mu**2),
        # the divergence the other way round
        lambda z, y, parents, mu: (cross(z, y) + mu * (np.exp(log_softmax(z)) * (log_softmax(z) - np.log(even(parents, y) + 1e-9))).sum(1)).mean(),
    ],
    "freeze": [no_gradients, evaluation, top_parts_only, all_but_dropout, no_momentum, no_statistics, still_but_learning, fresh_statistics, lambda network: network.train(False),
               lambda network: "frozen", lambda network: None],
    "mean-length": [lambda k, c: 1.0, lambda k, c: c, lambda k, c: np.sqrt(abs(c)), lambda k, c: (1 + (k - 1) * c) / k, lambda k, c: np.sqrt(abs(1 + k * c) / k), lambda k, c: 1 / np.sqrt(k),
                    lambda k, c: np.sqrt(abs(1 + (k - 1) * c)), lambda k, c: np.sqrt(max(0, 1 + (k - 1) * c / 2) / k), lambda k, c: c + (1 - c) / np.sqrt(k), lambda k, c: f"{k}"],
    "new-row": [lambda x, c: unit_rows((x - c).mean(0)), lambda x, c: unit_rows(unit_rows(x).mean(0)), lambda x, c: unit_rows(x - c).mean(0), lambda x, c: unit_rows(unit_rows(x).mean(0) - c),
                lambda x, c: unit_rows(unit_rows(x).mean(0) - unit_rows(c)), lambda x, c: unit_rows(x - c), lambda x, c: unit_rows((x - c) / np.linalg.norm(x - c)).mean(0),
                lambda x, c: unit_rows(((x - c) / np.linalg.norm(x - c, axis=0)).mean(0)), lambda x, c: row(np.subtract(x, c, out=x) + c, c), lambda x, c: row(x, x.mean(0))],
}
SECRETS = {"severity": ("1, 2, 3", "[1,"), "least-cost": ("argmin", "cost.T", "@"), "down-the-tree": ("0.1", "0.12", ".8 *", "0.8"), "smoothing": ("log_softmax", "np.log", "log p"),
           "freeze": ("modules()", ".eval().", "lambda"), "mean-length": ("sqrt", "(k - 1)", "k - 1"), "new-row": ("linalg", "mean(0)", "axis")}


def answers(table): return pytest.mark.parametrize("name, number", [(name, i) for name, found in table.items() for i in range(len(found))])


def test_every_exercise_is_tried():
    assert exercises.names == ("severity", "least-cost", "down-the-tree", "smoothing", "freeze", "mean-length", "new-row")
    assert set(RIGHT) == set(WRONG) == set(SECRETS) == set(exercises.names)
    assert min(map(len, WRONG.values())) >= 5 and min(map(len, RIGHT.values())) >= 2


@answers(RIGHT)
def test_right_answers(name, number, capsys): assert check(name, RIGHT[name][number]), capsys.readouterr().out


@answers(WRONG)
def test_wrong_answers(name, number, capsys):
    assert not check(name, WRONG[name][number])
    said = capsys.readouterr().out
    hint = said if "your code raised" not in said else ""  # there NumPy speaks, of the reader's own code
    assert not [secret for secret in SECRETS[name] if secret in hint], said
    assert "is not what is asked for" not in said or not callable(WRONG[name][number]), said


def test_the_checker_leaves_the_random_state_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    check("freeze", freeze)
    assert torch.equal(torch.rand(3), wanted)
