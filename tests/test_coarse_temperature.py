"A temperature from two-group problems: against a slow reference, options, bad input."
import math

import numpy as np
import pytest
from coarse_nets import TOY, toy

from hierlearn.coarse_extraction import group_scores
from hierlearn.coarse_temperature import TEMPERATURES, TemperatureChoice, check_fine_labels, choose_temperature


def test_temperature_against_a_slow_reference():
    logits, labels = toy(3.0)
    for leave_out in (True, False):
        choice = choose_temperature(logits, labels, TOY, leave_out=leave_out, temperatures=(0.5, 2.0, math.inf))
        wanted = []
        for t in choice.temperatures:
            accuracies = []
            for a in range(6):
                for b in range(a):
                    recalls = []
                    for mine, theirs in ((a, b), (b, a)):
                        right = []
                        for row in np.flatnonzero(labels // 5 == mine):
                            inside = [c for c in range(5 * mine, 5 * mine + 5) if not (leave_out and c == labels[row])]
                            rule = dict(rule="tempered", temperature=t)
                            right.append(group_scores(logits[row][None], [inside], **rule)[0, 0] > group_scores(logits[row][None], [range(5 * theirs, 5 * theirs + 5)], **rule)[0, 0])
                        recalls.append(np.mean(right))
                    accuracies.append(np.mean(recalls))
            wanted.append(np.mean(accuracies))
        assert np.allclose(choice.accuracies, wanted) and choice.problems == 15 and isinstance(choice, TemperatureChoice)


def test_temperature_options():
    logits, labels = toy(1.0)
    assert choose_temperature(logits, labels, TOY, avoid=[0]).problems == 10
    with pytest.raises(ValueError, match="must have shape"): choose_temperature(logits.T, labels, TOY)
    with pytest.raises(ValueError, match="no two disjoint groups"): choose_temperature(logits, labels, TOY, min_size=6)
    assert TEMPERATURES[-1] == math.inf and 1.0 in TEMPERATURES


@pytest.mark.parametrize("how, sentence", [
    (dict(min_size=1), "at least 2"), (dict(min_size="5"), "of at least 2"), (dict(temperatures=()), "no temperature to try"), (dict(temperatures=(-1,)), "of at least 0"),
    (dict(avoid=[5000]), "0..29"), (dict(avoid=[-1]), "0..29"), (dict(avoid="unicorn"), "no class is below")])
def test_temperature_refuses(how, sentence):
    logits, labels = toy(1.0)
    with pytest.raises(ValueError, match=sentence): choose_temperature(logits, labels, TOY, **how)


def test_temperature_input():
    logits, labels = toy(1.0)
    for avoid in ("g0", {"a": [0, 1], "b": np.array([2])}, ["g0", 1], 0): assert choose_temperature(logits, labels, TOY, avoid=avoid).problems == 10
    for bad, wrong, sentence in ((logits * np.nan, labels, "NaN"), (logits, labels - 1, "labels must be"), (logits, labels[:-1], "must have shape"), (logits, labels / 2, "labels must be")):
        with pytest.raises(ValueError, match=sentence): check_fine_labels(bad, wrong, 30)
        with pytest.raises(ValueError, match=sentence): choose_temperature(bad, wrong, TOY)
