"The ELU explorer in a browser: its JavaScript against the library's numbers, its controls, its address."
import json
import math
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "nbs" / "explorers" / "elu.html"


@pytest.fixture
def visit(browser):
    "A function that opens the page; console errors and requests fail the test."
    contexts, said = [], []

    def open_page(state="", width=900, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(PAGE.as_uri() + (f"#{state}" if state else ""))
        return page
    yield open_page
    for context in contexts: context.close()
    assert said == []


@pytest.fixture(scope="module")
def golden(): return json.loads((ROOT / "nbs" / "explorers" / "golden" / "elu.json").read_text("utf-8"))


def say(page): return page.locator("#say").inner_text()
def settings(page): return [page.locator(f"#{key}v").inner_text() for key in "amw"]


def test_javascript_equals_the_library(visit, golden):
    page = visit()
    for curve in golden["curves"]:
        found = page.evaluate("([xs, a]) => [xs.map(x => explorer.elu(x, a)), xs.map(x => explorer.eluGrad(x, a))]", [golden["x"], curve["a"]])
        assert np.allclose(found, [curve["f"], curve["grad"]], rtol=0, atol=1e-12)
    computed = page.evaluate("cases => cases.map(({a, m, w}) => explorer.summary(a, m, w))", golden["cases"])
    assert len(computed) == len(golden["cases"]) >= 60
    for found, case in zip(computed, golden["cases"]):
        for name in found: assert np.allclose(found[name], case[name], rtol=0, atol=2e-9), (name, case)


def test_means_are_those_of_the_normal_distribution(golden):
    "The closed form: E ReLU = m P(x > 0) + w p(0), and what ELU adds below zero."
    below = lambda z: math.erfc(-z / math.sqrt(2)) / 2
    for case in golden["cases"]:
        a, m, w = (case[key] for key in "amw")
        relu = m * below(m / w) + w * math.exp(-((m / w) ** 2) / 2) / math.sqrt(2 * math.pi)
        negative = math.exp(m + w * w / 2) * below(-(m + w * w) / w)
        assert case["relu"] == pytest.approx(relu, abs=1e-4) and case["reluGrad"] == pytest.approx(below(m / w), abs=1e-3)
        assert case["elu"] == pytest.approx(relu + a * (negative - below(-m / w)), abs=1e-4)
        assert case["eluGrad"] == pytest.approx(below(m / w) + a * negative, abs=2e-3)
        assert sum(case["eluBars"]) == pytest.approx(1) and sum(case["reluBars"]) == pytest.approx(1)


def test_at_load_elu_is_nearer_to_zero(visit):
    page = visit()
    assert settings(page) == ["1.0", "0.0", "1.0"] and page.locator("[aria-pressed=true]").inner_text() == "Standard normal"
    assert say(page) == "Mean of ELU 0.161, of ReLU 0.399: ELU is nearer to zero. Mean of f′: 0.762 and 0.500."
    assert "ELU 0.161, ReLU 0.399" in page.locator("#means").get_attribute("aria-label")
    assert page.locator("#hr .label").all_text_contents() == ["60 %", "mean 0.399"]
    assert page.locator("#he rect").count() > 10


def test_where_relu_is_nearer(visit):
    page = visit("a=1&m=-2&w=1")
    assert say(page).startswith("Mean of ELU −0.781, of ReLU 0.008: ReLU is nearer to zero.")
    page.get_by_role("button", name="Mostly positive").click()
    assert page.url.endswith("#a=1&m=2&w=1") and "ELU is nearer" in say(page)


def test_by_keyboard_alone(visit):
    page = visit()
    for key in "amw":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == key
        page.keyboard.press("ArrowRight")
    assert settings(page) == ["1.1", "0.1", "1.1"] and page.url.endswith("#a=1.1&m=0.1&w=1.1")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert settings(page) == ["1.0", "0.0", "1.0"]


def test_the_address_keeps_the_state(visit):
    page = visit("a=0.3&m=-1.2&w=0.5")
    assert settings(page) == ["0.3", "−1.2", "0.5"]
    page.evaluate("location.hash = 'a=2&m=3&w=2'")
    page.wait_for_function("document.querySelector('#mv').textContent === '3.0'")
    assert settings(page) == ["2.0", "3.0", "2.0"]


@pytest.mark.parametrize("state", ["a=9&m=-7&w=0", "a=&m=&w=", "a=x&m=NaN&w=Infinity", "%%%", "w=1e-9"])
def test_a_foreign_address_does_no_harm(visit, state):
    assert say(visit(state)).startswith("Mean of ELU 0.161, of ReLU 0.399")


def test_a_reader_hears_where_the_slider_stops(visit):
    page = visit()
    for _ in range(5): page.locator("#m").press("ArrowRight")
    page.wait_for_function("document.querySelector('#live').textContent === document.querySelector('#say').textContent")
    assert page.locator("#live").get_attribute("aria-live") == "polite" and page.locator("#say").get_attribute("aria-live") is None
    nameless = page.evaluate("[...document.querySelectorAll('button, input')].filter(e => !(e.textContent.trim() || e.labels?.length)).length")
    assert nameless == 0 and page.locator("svg[role=img]:not([aria-label])").count() == 0


def test_it_follows_the_theme_of_the_site(visit):
    page = visit()
    for theme, dark in (("dark", True), ("light", False)):
        page.evaluate("theme => postMessage({explorerTheme: theme}, '*')", theme)
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        color = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, color.removeprefix("rgb(").rstrip(")").split(","))) < 150) == dark


@pytest.mark.parametrize("width", [900, 390, 360])
def test_it_fits_and_can_be_read(visit, width):
    page = visit("a=2&m=-3&w=0.2", width=width, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scale = page.evaluate("Math.min(...[...document.querySelectorAll('#means, #f, #g, #he, #hr')].map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width))")
    assert 12 * scale >= 9
    assert page.evaluate("document.getAnimations().length") == 0


def test_without_scripts_there_is_a_picture(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("noscript svg").is_visible() and "ELU with mean 0.161" in page.locator("noscript").inner_text()
    assert not page.locator("#app").is_visible()
