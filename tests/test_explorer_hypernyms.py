"The hypernym explorer in a browser: its JavaScript against the library's numbers, its controls, its address."
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "nbs" / "explorers" / "hypernyms.html"


@pytest.fixture
def visit(browser):
    "A function that opens the page; console errors and requests fail the test."
    contexts, said = [], []

    def open_page(state="", width=900, scripts=True):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, java_script_enabled=scripts))
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
def golden(): return json.loads((ROOT / "nbs" / "explorers" / "golden" / "hypernyms.json").read_text("utf-8"))


def test_the_page_holds_the_librarys_data(golden):
    spec = importlib.util.spec_from_file_location("explorers_tool", ROOT / "tools" / "explorers.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = PAGE.read_text("utf-8").split("/*data*/")[1].split("/*end*/")[0]
    assert json.loads(text) == tool.hypernym_data() == golden["data"], "run python tools/explorers.py"


def test_javascript_equals_the_library(visit, golden):
    page = visit()
    assert page.evaluate("names => Object.fromEntries(names.map(n => [n, explorer.membersOf(n)]))", list(golden["members"])) == golden["members"]
    computed = page.evaluate("""cases => cases.map(c => explorer.probabilities(explorer.DATA.pictures[c.picture].logits,
        [explorer.membersOf(c.a), explorer.membersOf(c.b)], c.rule, c.t))""", golden["cases"])
    assert len(computed) == len(golden["cases"]) >= 100
    for found, case in zip(computed, golden["cases"]): assert found == pytest.approx(case["probs"], abs=1e-7), case


def shown(page, rule): return page.locator(f"[data-rule={rule}] [role=img]").get_attribute("aria-label")


def test_mean_and_sum_disagree_on_a_real_cat_at_load(visit):
    page = visit()
    say = page.locator("#say").inner_text()
    assert say.startswith("7 columns are averaged for cat, 118 for dog.") and "disagree" in say
    assert page.locator("[data-node='cat.n.01'] small").inner_text() == "7" and page.locator("[data-node='dog.n.01'] small").inner_text() == "118"
    rows = page.locator(".node").count()
    assert 25 <= rows <= 70, rows


def test_a_click_lights_the_hyponyms(visit):
    page = visit()
    page.locator("[value=b]").check()
    page.locator("[data-node='wolf.n.01']").click()
    assert "for wolf" in page.locator("#say").inner_text() and "b=wolf.n.01" in page.url
    assert page.locator(".in-b").count() >= 1 and page.locator(".is-b").count() == 1
    page.locator("[data-node='carnivore.n.01']").click()
    assert "share 7 classes" in page.locator("#say").inner_text()
    page.locator("#reset").click()
    assert page.locator("#say").inner_text().startswith("7 columns")


def test_folding_and_keyboard(visit):
    page = visit()
    before = page.locator(".node").count()
    page.locator("[data-fold='dog.n.01']").focus()
    page.keyboard.press("Enter")
    assert page.locator(".node").count() < before
    assert page.evaluate("document.activeElement.dataset.fold") == "dog.n.01" and page.locator("[data-fold='dog.n.01']").get_attribute("aria-expanded") == "false"
    page.locator("#t").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tv").inner_text() == "1.4" and "t=1" in page.url
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, select')].filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length""")
    assert nameless == 0


def test_temperature_ends_at_the_mean(visit):
    page = visit()
    assert shown(page, "tempered").split(":")[1] == shown(page, "log_mean_exp").split(":")[1]  # T = 1 at load
    probs = page.evaluate("[1e6, Infinity].map(t => explorer.probabilities(explorer.DATA.pictures[0].logits, ['cat.n.01', 'dog.n.01'].map(explorer.membersOf), 'tempered', t)[0])")
    mean = page.evaluate("explorer.probabilities(explorer.DATA.pictures[0].logits, ['cat.n.01', 'dog.n.01'].map(explorer.membersOf), 'mean')[0]")
    assert probs == pytest.approx([mean, mean], abs=1e-4)


def test_state_in_the_address(visit):
    page = visit(state="pic=3&t=4&a=bear.n.01&b=fox.n.01&slot=b")
    assert page.locator("#pic").input_value() == "3" and page.locator("#tv").inner_text() == "4.0" and page.locator("[value=b]").is_checked()
    assert "for bear" in page.locator("#say").inner_text()
    page.evaluate("location.hash = 'pic=1'")
    page.wait_for_function("document.querySelector('#pic').value === '1'")


@pytest.mark.parametrize("state", ["pic=99&t=-9", "a=nothing&b=", "%%%", "pic=x&t=1.5&slot=c"])
def test_foreign_addresses(visit, state):
    assert visit(state=state).locator("#say").inner_text().startswith("7 columns")


def test_without_scripts(visit):
    page = visit(scripts=False)
    assert page.locator("noscript svg").is_visible() and not page.locator("#app").is_visible()


@pytest.mark.parametrize("width", [900, 390])
def test_it_fits(visit, width):
    assert visit(width=width).evaluate("document.documentElement.scrollWidth") <= width
