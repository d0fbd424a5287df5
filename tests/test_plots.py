"Figures: what is drawn is what was given, groups and borders stand where they should, and bad input is refused in one line."
import re
from functools import partial
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from hierlearn import plots
from hierlearn.decisions import accuracy_specificity_curve
from hierlearn.metrics import expected_calibration_error, reliability_curve, severity_histogram
from hierlearn.plots import Explorer, describe, link_explorers, show_explorer, taxonomy_order, to_svg, use_svg
from hierlearn.taxonomy import Taxonomy

# every drawing function demands its text alternative; most tests are about something else
DRAWING = ("plot_accuracy_specificity", "plot_arms", "plot_confusion", "plot_history", "plot_kernels", "plot_reliability", "plot_runs",
           "plot_severity", "plot_tree_confusion", "show_images")
(plot_accuracy_specificity, plot_arms, plot_confusion, plot_history, plot_kernels, plot_reliability, plot_runs,
 plot_severity, plot_tree_confusion, show_images) = (partial(getattr(plots, name), alt="What is to be seen.") for name in DRAWING)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tree(): return Taxonomy.from_dict({"animal": {"pet": ["cat", "dog"], "farm": ["cow"]}, "vehicle": ["car", "truck"]})


@pytest.fixture(scope="module")
def judged(tree):
    "Probabilities of 400 samples over the 5 leaves, and their labels."
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    logits = rng.normal(size=(400, 5)) + 1.5 * np.eye(5)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def drawn(ax):
    array = np.asarray(ax.collections[0].get_array())
    side = round(array.size ** 0.5)
    return array.reshape(side, side)


def own_axes(): return plt.figure(figsize=(3, 3)).gca()


def refused(function, *args, says, **kwargs):
    with pytest.raises(ValueError, match=re.escape(says)) as caught: function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert not plt.get_fignums() or kwargs.get("ax"), "a figure was opened before the input was checked"


# ---- look ----
def test_colours_stay_apart_and_text_can_be_read():
    rgb = np.array([to_rgb(c) for c in plots.PALETTE])
    assert min(np.abs(a - b).sum() for i, a in enumerate(rgb) for b in rgb[:i]) > 0.25
    for color in (plots.INK, plots.GOOD, plots.BAD):
        c = np.array(to_rgb(color))
        light = (np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) * [0.2126, 0.7152, 0.0722]).sum()
        assert 1.05 / (light + 0.05) >= 4.5
    assert len(set(plots.PALETTE)) == 7 and to_rgb(plots.FAINT)


def test_every_drawing_demands_its_text(tree):
    first = {"plot_history": {"loss": [1]}, "plot_runs": {"a": {"val_accuracy": [1]}}, "plot_severity": {0: 1, 1: 1}, "plot_arms": {"a": [1]},
             "plot_kernels": np.zeros((2, 2, 3, 1)), "show_images": np.zeros((1, 2, 2)), "plot_tree_confusion": np.eye(5), "plot_confusion": np.eye(2),
             "plot_accuracy_specificity": SimpleNamespace(specificity=[1], accuracy=[1]),
             "plot_reliability": SimpleNamespace(edges=[0, 1], counts=[1], confidence=[1], accuracy=[1])}
    assert set(first) == set(DRAWING) == {n for n in dir(plots) if re.match("plot_|show_images", n)}
    for name, data in first.items():
        more = [tree] if name == "plot_tree_confusion" else []
        with pytest.raises(TypeError, match="alt"): getattr(plots, name)(data, *more)
        for empty in ("", "  ", None): refused(getattr(plots, name), data, *more, alt=empty, says="alt must be one sentence")
        drawing = getattr(plots, name)(data, *more, alt="Tell <all>  of it & more.")
        assert "<title>Tell &lt;all&gt; of it &amp; more.</title>" in to_svg(drawing), name
        plt.close("all")


def test_use_svg_outside_a_notebook(tmp_path):
    use_svg()
    ax = plot_arms({"an arm": [1, 2]})
    ax.figure.savefig(tmp_path / "a.png")
    assert ax.figure.get_facecolor() == (1, 1, 1, 1), "outside a notebook nothing changes"


def test_svg_follows_the_theme_and_is_the_same_at_every_call(tree):
    ax = plot_arms({"an <arm>": [1, 2], "another": [2, 3]}, xlabel="share")
    text = to_svg(ax)
    assert text == to_svg(ax.figure) and text.startswith("<svg ") and text.endswith("</svg>")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img" and root.get("aria-label") == root[0].text == "What is to be seen."
    words = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert "an <arm>" in {t.text for t in words} and words, "text stays text"
    assert all("currentColor" in t.get("style") or "fill" not in t.get("style") for t in words) and root.get("fill") == "currentColor"
    assert "#222222" not in text and "#000000" not in text and "Date" not in text and "metadata" not in text
    for other in (plot_confusion(np.eye(40)), show_images(np.zeros((2, 4, 4)), ["a", "b"], correct=[True, False])):
        drawing = to_svg(other)
        assert not re.search(r"fill: (#ffffff|white)", drawing), "a white rectangle"
    assert "var(--figure-good" in drawing and "var(--figure-bad" in drawing and "data:image/png" in drawing


def test_ids_are_each_figures_own_and_all_are_used():
    one, two = (to_svg(plot_history({"loss": values})) for values in ([3, 2, 1], [3, 2, 2]))
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for text, own in zip((one, two), ids): assert set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)", text)) and all(f"#{name}" in text for name in own)


def test_no_figure_is_wider_than_a_column_and_text_can_be_read():
    wide = [show_images(np.zeros((20, 4, 4)), columns=20), plot_history({name: [1, 2] for name in "abcd"})[0], plot_confusion(np.eye(60))]
    assert all(ax.figure.get_size_inches()[0] <= plots.COLUMN for ax in wide)
    sizes = [float(size) for ax in wide for size in re.findall(r"font(?:-size)?: ([\d.]+)px", to_svg(ax))]
    assert min(sizes) >= 7, "in points: 9.3 pixels on the page"


def test_photographs_stay_small_and_small_pictures_exact():
    photo = np.random.default_rng(0).normal(128, 40, (300, 300, 3)).clip(0, 255).astype(np.uint8)
    assert "data:image/jpeg" in to_svg(show_images([photo])) and len(to_svg(show_images([photo], size=1))) < 40_000
    assert "data:image/png" in to_svg(show_images(photo[None, :32, :32]))


def test_several_drawings_of_one_figure_tell_one_text():
    figure, axes = plt.subplots(1, 2)
    plots.plot_arms({"a": [1, 2]}, alt="Left.", ax=axes[0])
    describe(axes[1], " Right,\nin two  lines. ")
    assert "<title>Left. Right, in two lines.</title>" in to_svg(figure)
    describe(figure, "All.")
    assert "<title>All. Left. Right, in two lines.</title>" in to_svg(axes)


# ---- images, kernels ----
def test_images_are_drawn_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    ax = show_images(images, titles=list("abcde"), columns=3, correct=[1, 0, 1, 1, 0])
    assert all((np.asarray(shown.get_array()) == image).all() for shown, image in zip(ax.images, images, strict=True))
    assert [t.get_text() for t in ax.texts] == list("abcde")
    assert [t.get_color() == plots.GOOD for t in ax.texts] == [True, False, True, True, False]
    left, right, bottom, top = np.array([shown.get_extent() for shown in ax.images]).T
    assert (np.diff(left[:3]) > 1).all() and left[3] == left[0] and bottom[3] + 1 < bottom[0], "two rows of three and two"
    assert all(shown.get_interpolation() == "none" for shown in ax.images)


def test_images_of_other_kinds():
    given = own_axes()
    ax = show_images([np.zeros((4, 8, 1)), np.ones((8, 4)), np.full((2, 2, 3), 0.5, np.float32)], ax=given)
    assert ax is given and len(ax.images) == 3
    left, right, bottom, top = ax.images[0].get_extent()
    assert right - left == 1 and top - bottom == 0.5
    assert ax.images[0].get_clim() == (0, 1) and show_images(np.zeros((1, 2, 2), np.uint8)).images[0].get_clim() == (0, 255)
    assert len(show_images(np.zeros((3, 2, 2)), titles=["two\nlines"] * 3).texts) == 3


@pytest.mark.parametrize("images, more, says", [
    ([], {}, "no images to show"),
    (np.zeros((2, 3, 8, 8)), {}, "image 0 has shape (3, 8, 8); pass (H, W), (H, W, 1) or (H, W, 3), channels last"),
    (np.zeros((8, 8)), {}, "image 0 has shape (8,)"),
    (np.zeros((1, 0, 4)), {}, "image 0 is empty"),
    (np.full((1, 4, 4), np.nan), {}, "image 0 has values from nan to nan"),
    (np.full((1, 4, 4), 255), {}, "values from 255 to 255; pass uint8, or floats in 0..1"),
    (np.full((1, 4, 4), -0.1), {}, "pass uint8, or floats in 0..1"),
    (np.zeros((2, 4, 4)), dict(titles=["a"]), "1 titles for 2 images"),
    (np.zeros((2, 4, 4)), dict(correct=[True] * 3), "3 correct for 2 images"),
    (np.zeros((2, 4, 4)), dict(columns=0), "columns must be an integer of at least 1, got 0"),
])
def test_images_refused(images, more, says): refused(show_images, images, says=says, **more)


def test_kernels_are_scaled_each_by_itself():
    kernels = np.random.default_rng(0).normal(size=(5, 5, 3, 9)) * np.arange(9)
    ax = plot_kernels(kernels, titles=[str(i) for i in range(9)])
    for i, shown in enumerate(ax.images):
        wanted = 0.5 + 0.5 * kernels[..., i] / max(np.abs(kernels[..., i]).max(), 1e-300)
        np.testing.assert_allclose(shown.get_array(), wanted, atol=1e-12)
    assert np.asarray(plot_kernels(kernels[:, :, :1]).images[3].get_array()).shape == (5, 5)
    plt.close("all")
    refused(plot_kernels, np.zeros((9, 3, 5, 5)), says="pass (h, w, 3, n) or (h, w, 1, n)")
    refused(plot_kernels, np.full((3, 3, 3, 1), np.inf), says="image 0 has values from")


# ---- training ----
def test_history_draws_each_measure_with_its_twin():
    history = {"loss": [3, 2, 1.5], "val_loss": [3, 2.5, 2.7], "top5": [0.1, 0.5, 0.6], "val_top5": [0.2, 0.6, 0.5], "learning_rate": [1, 1, 1]}
    axes = plot_history(history)
    assert [ax.get_title(loc="left") for ax in axes] == ["loss", "top5"]
    for ax, name in zip(axes, ("loss", "top5")):
        np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([[1, 2, 3], history[name]], 1))
        np.testing.assert_array_equal(ax.lines[1].get_ydata(), history[f"val_{name}"])
    assert axes[0].lines[2].get_xydata().tolist() == [[2, 2.5]] and axes[1].lines[2].get_xydata().tolist() == [[2, 0.6]], "the best epoch: least loss, most accuracy"
    given = own_axes()
    assert plot_history(history, measures=["top5"], ax=given)[0] is given
    assert plot_history({"val_accuracy": [0.5]})[0].lines[0].get_ydata().tolist() == [0.5]


def test_runs_are_averaged():
    runs = {"a": [SimpleNamespace(curves={"val_accuracy": [0.1, 0.3]}), {"val_accuracy": [0.3, 0.5]}], "b": {"val_accuracy": [0.2, 0.2]}}
    ax = plot_runs(runs)
    assert np.allclose(ax.lines[0].get_ydata(), [0.2, 0.4]) and ax.lines[1].get_ydata().tolist() == [0.2, 0.2]
    band = ax.collections[0].get_paths()[0].vertices
    assert len(ax.collections) == 1 and np.allclose([band[:, 1].min(), band[:, 1].max()], [0.2 - 0.02**0.5, 0.4 + 0.02**0.5])
    plt.close("all")
    refused(plot_runs, {}, says="a dict with runs in it")
    refused(plot_runs, {"a": []}, says="same number of epochs")
    refused(plot_runs, {"a": [{"loss": [1]}, {"loss": [1, 2]}]}, "loss", says="same number of epochs")
    refused(plot_runs, runs, "top5", says="measure of 'a' must be one of val_accuracy, got 'top5'")
    refused(plot_runs, [{"loss": [1]}], says="runs must be a dict")
    for bad in ({"loss": [1, 2]}, {"a": [[1, 2]]}): refused(plot_runs, bad, says="runs must hold histories or records")


def test_history_refused():
    refused(plot_history, {}, says="the history is empty")
    refused(plot_history, {"loss": []}, says="history['loss'] has shape (0,)")
    refused(plot_history, {"loss": [[1, 2]]}, says="history['loss'] has shape (1, 2)")
    refused(plot_history, {"loss": [1]}, measures=["f1"], says="the history has no 'f1'; it has loss")
    refused(plot_history, {"loss": [1], "mae": [1]}, ax=own_axes(), says="1 axes for 2 measures; pass one for each")


# ---- confusion ----
def test_confusion_is_the_matrix_in_the_given_order():
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 2]])
    ax = plot_confusion(counts, ["a", "b", "c"], order=[2, 0, 1], borders=[1], group_names=["one", "two"])
    np.testing.assert_allclose(drawn(ax), [[0.5, 0.25, 0.25], [0, 0.8, 0.2], [0, 0, 0]])
    assert [t.get_text() for t in ax.get_yticklabels()] == [t.get_text() for t in ax.get_xticklabels()] == ["c", "a", "b"]
    assert {"one", "two", "0.80"} <= {t.get_text() for t in ax.texts}
    lines = [(set(line.get_xdata()), set(line.get_ydata())) for line in ax.lines]
    assert ({0, 1}, {1}) in lines and ({1}, {0, 1}) in lines, "a border across and a border down"
    frames = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]
    assert frames == [(0, 0, 1, 1), (1, 1, 2, 2)]
    np.testing.assert_array_equal(drawn(plot_confusion(counts, normalize=False, ax=own_axes())), counts)
    assert "8" in {t.get_text() for t in plot_confusion(counts, normalize=False).texts}


def test_large_confusion_carries_no_numbers():
    ax = plot_confusion(np.arange(1600).reshape(40, 40))
    assert not ax.texts and ax.collections[0].get_rasterized()
    assert plot_confusion(np.eye(4), annotate=False).texts[:] == []


@pytest.mark.parametrize("matrix, more, says", [
    (np.ones((2, 3)), {}, "has shape (2, 3); pass a square one"),
    (np.ones((0, 0)), {}, "pass a square one"),
    (-np.eye(2), {}, "negative numbers, NaN or infinity"),
    (np.full((2, 2), np.nan), {}, "negative numbers, NaN or infinity"),
    (np.eye(3), dict(class_names=["a"]), "1 class names for 3 classes"),
    (np.eye(3), dict(order=[0, 1, 1]), "order must hold each index 0..2 once"),
    (np.eye(3), dict(borders=[3]), "borders must lie inside 1..2, got [3]"),
    (np.eye(3), dict(borders=[1], group_names=["a"]), "1 group names for 2 groups"),
])
def test_confusion_refused(matrix, more, says): refused(plot_confusion, matrix, says=says, **more)


def test_order_of_the_tree(tree):
    order, borders, groups = taxonomy_order(tree)
    assert [tree.leaves[i] for i in order] == ["cat", "dog", "cow", "car", "truck"] and borders == [3] and groups == ["animal", "vehicle"]
    shuffled = Taxonomy.from_edges([("r", "a"), ("r", "b"), ("a", "x"), ("b", "y"), ("a", "z"), ("b", "z")], leaves=["y", "z", "x"])
    order, borders, groups = taxonomy_order(shuffled)
    assert sorted(order.tolist()) == [0, 1, 2] and len(groups) == len(borders) + 1, "a leaf with two parents stands once"
    order, borders, groups = taxonomy_order(Taxonomy.cifar100())
    leaves, coarse = Taxonomy.cifar100().leaves, Taxonomy.cifar100()
    assert borders == list(range(5, 100, 5)) and len(groups) == 20
    assert all({coarse.parents(leaves[i])[0] for i in order[5 * g : 5 * g + 5]} == {groups[g]} for g in range(20))


def test_tree_confusion(tree):
    counts = np.random.default_rng(0).integers(0, 9, (5, 5)) + np.eye(5, dtype=int)
    ax = plot_tree_confusion(counts, tree, ax=own_axes())
    order = taxonomy_order(tree)[0]
    np.testing.assert_allclose(drawn(ax), (counts / counts.sum(1, keepdims=True))[np.ix_(order, order)])
    assert [t.get_text() for t in ax.texts][-2:] == ["animal", "vehicle"]
    plt.close("all")
    refused(plot_tree_confusion, np.eye(4), tree, says="5 class names for 4 classes")


# ---- measures ----
def test_severity_shows_shares_of_mistakes(tree, judged):
    probs, labels = judged
    histogram = severity_histogram(tree, predictions=probs.argmax(1), labels=labels)
    ax = plot_severity(histogram)
    heights = [h for h in sorted(histogram) if h > 0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.containers[0]], [histogram[h] / 400 for h in heights])
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{h:g}" for h in heights]
    assert ax.get_legend().get_texts()[0].get_text() == f"right: {histogram[0] / 400:.1%}"
    both = plot_severity({"one": histogram, "two": {0: 3, 1: 1}}, ax=own_axes())
    assert [t.get_text() for t in both.get_legend().get_texts()][1] == "two, right: 75.0%" and both.containers[1][0].get_height() == 0.25
    plt.close("all")
    refused(plot_severity, {}, says="nothing to draw")
    refused(plot_severity, {0: 5}, says="no height above 0")
    refused(plot_severity, {0: 5, 1: 0, 2: -1}, says="counts of at least 0, not all 0")


def test_accuracy_specificity_draws_the_curve(tree, judged):
    curve = accuracy_specificity_curve(tree, *judged)
    ax = plot_accuracy_specificity(curve)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([curve.specificity, curve.accuracy], 1))
    assert ax.lines[1].get_xdata()[0] == max(curve.specificity) and ax.get_legend() is None
    assert plot_accuracy_specificity({"a": curve, "b": curve}, ax=own_axes()).get_legend().get_texts()[1].get_text() == "b"
    plt.close("all")
    refused(plot_accuracy_specificity, SimpleNamespace(specificity=[1, 2], accuracy=[1]), says="2 specificities of '' for 1 accuracies")
    refused(plot_accuracy_specificity, {}, says="nothing to draw")


def test_reliability_draws_the_bins(judged):
    curve = reliability_curve(*judged, bins=10)
    ax = plot_reliability(curve)
    used = curve.counts > 0
    np.testing.assert_allclose([bar.get_height() for bar in ax.containers[0]], curve.accuracy[used])
    np.testing.assert_allclose([bar.get_height() for bar in ax.containers[1]], (curve.confidence - curve.accuracy)[used])
    assert ax.get_title(loc="left") == f"calibration error {expected_calibration_error(*judged, bins=10):.3f}"
    given = own_axes()
    assert plot_reliability(curve, ax=given) is given
    plt.close("all")
    refused(plot_reliability, SimpleNamespace(edges=[0, 1], counts=[1, 2], confidence=[1], accuracy=[1]), says="2 counts for 1 bins; pass one for each")
    refused(plot_reliability, SimpleNamespace(edges=[0, 1], counts=[0], confidence=[1], accuracy=[1]), says="all bins are empty")


def test_arms_draw_every_seed():
    ax = plot_arms({"a": [1, 2, 3], "b": [5]}, xlabel="accuracy", baseline="a", ax=own_axes())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"] and ax.get_xlabel() == "accuracy"
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [p.get_xdata().tolist() for p in points] == [[1, 2, 3], [5]]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"] == [2, 5]
    assert [line.get_xdata() for line in ax.lines if line.get_linestyle() == "--"] == [[2, 2]]
    plt.close("all")
    refused(plot_arms, {}, says="no arms to draw")
    refused(plot_arms, {"a": [1, np.nan]}, says="arm 'a' needs one finite number a seed, got [1.0, nan]")
    refused(plot_arms, {"a": [1]}, baseline="b", says="baseline must be one of a, got 'b'")


# ---- explorers: the rest is in test_explorers.py ----
def test_explorer_is_embedded_whole_and_linked_short():
    shown = show_explorer("pooling", height=600, state="z=2&s=3")
    assert isinstance(shown, Explorer) and shown._repr_html_() == shown.data and "characters of HTML" in repr(shown)
    assert "srcdoc=" in shown.data and "height:600px" in shown.data and "&lt;script&gt;" in shown.data
    linked = link_explorers(f"a{shown.data}b{show_explorer('pooling').data}c", folder="../explorers/")
    assert linked.count('src="../explorers/pooling.html#z=2&amp;s=3"') == linked.count('src="../explorers/pooling.html"') == 1 and "srcdoc" not in linked
    assert link_explorers(linked) == linked and link_explorers("no frame") == "no frame"
    with pytest.raises(ValueError, match="no explorer 'poling'; there are: .*pooling"): show_explorer("poling")
    for state in ("z", "z=3;s=2", 'z="', "z=3&"):
        with pytest.raises(ValueError, match="is malformed; write it as 'z=3&s=2'"): show_explorer("pooling", state=state)
