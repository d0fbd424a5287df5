"Small networks of both frameworks, and batches for them: shared by the tests of coarse extraction."
import math

import numpy as np
import pytest

from hierlearn.taxonomy import Taxonomy

SHAPES, IMAGENET = Taxonomy.shapes(), Taxonomy.imagenet()
COARSE = SHAPES.cut(1)
GROUPS = [np.arange(4 * g, 4 * g + 4) for g in range(5)]
TORCH_BATCH = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
KERAS_BATCH = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
EVERY = [("mean", None), ("log_sum_exp", None), ("log_mean_exp", None), ("tempered", 2.0), ("tempered", 0),
         ("tempered", math.inf), ("argmax", None)]
TOY = Taxonomy.from_dict({f"g{g}": [f"{g}.{c}" for c in range(5)] for g in range(6)})


def torch_net(outputs=20, convolution=False, ending=()):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    head = [nn.Conv2d(6, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()] if convolution else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs)]
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *head, *ending).eval()


def keras_net():
    pytest.importorskip("keras")
    from hierlearn.models import build_six_layer_net
    return build_six_layer_net(20, widths=(4,) * 6)


def toy(noise, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(30), 4)
    return 4 * np.kron(np.eye(6), np.ones((5, 5)))[labels] + 6 * np.eye(30)[labels] + rng.normal(0, noise, (120, 30)), labels
