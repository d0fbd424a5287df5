"The playable figures in a real browser: their JavaScript against the golden data of the library, keyboard, address, narrow and dark pages."
import importlib.util
import json
import shutil
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierlearn.plots import link_explorers, show_explorer

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "nbs" / "explorers"
PAGES = sorted(FOLDER.glob("*.html"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)


def tool():
    spec = importlib.util.spec_from_file_location("explorers_tool", ROOT / "tools" / "explorers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- files ----
def test_golden_data_are_what_the_library_computes_now():
    made = tool()
    assert {p.stem for p in PAGES} == set(made.GOLDEN), "each explorer has golden data"
    for name in made.GOLDEN: assert (FOLDER / "golden" / f"{name}.json").read_text("utf-8") == made.golden_text(name), "run python tools/explorers.py"


@each_page
def test_the_package_holds_the_same_page(page):
    assert (resources.files("hierlearn") / "explorers" / page.name).read_text("utf-8") == page.read_text("utf-8"), "run python tools/explorers.py, install again"


@each_page
def test_pages_are_small_and_ask_for_nothing(page):
    text = page.read_text("utf-8")
    assert page.stat().st_size < 30_000
    assert "<noscript>" in text and "?</b>" in text, "a picture without scripts, and a question"
    assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), "an address of another host"


# ---- browser ----
@pytest.fixture
def visit(browser):
    "A function that opens an explorer; console errors and requests to other hosts fail the test."
    contexts, said = [], []

    def open_page(name="pooling", state="", width=900, height=800, scheme="light", scripts=True, content=None):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        if content is None: page.goto((FOLDER / f"{name}.html").as_uri() + (f"#{state}" if state else ""))
        else: page.set_content(content)
        return page
    yield open_page
    for context in contexts: context.close()
    assert said == []


def test_pooling_equals_the_golden_data(visit):
    golden = json.loads((FOLDER / "golden" / "pooling.json").read_text("utf-8"))
    assert len(golden["cases"]) == 50
    computed = visit().evaluate("""golden => golden.cases.map(({z, s, padding, sizes}) => ({z, s, padding,
        sizes: Object.fromEntries(Object.keys(sizes).map(n => [n, explorer.outputSize(+n, z, s, padding)])),
        pooled: golden.maps.map(map => explorer.maxPool(map, z, s, padding)), counts: explorer.readCounts(7, z, s, padding)}))""", golden)
    assert computed == golden["cases"]


def label(page, kind, i, j): return page.locator(f'.cell[data-kind={kind}][data-i="{i}"][data-j="{j}"]').get_attribute("aria-label")
def values(page):
    shown = page.evaluate("[...document.querySelectorAll('.cell[data-kind=input]')].map(g => +g.querySelector('text').textContent)")
    return np.array(shown).reshape(7, 7)


def test_pooling_answers_its_question_at_load(visit):
    page = visit()
    assert page.locator("#say").inner_text().startswith("24 of 49 inputs are read twice or more.")
    assert "3 × 3" in page.locator("#outcap").inner_text() and page.locator("#tally").inner_text().split("\n") == ["once: 25", "twice: 20", "4 times: 4"]
    counts = page.evaluate("explorer.readCounts(7, 3, 2)")
    for i in range(7):
        for j in range(7): assert label(page, "input", i, j).endswith({1: "read once", 2: "read twice", 4: "read 4 times"}[counts[i][j]])


def test_pooling_hover_lights_the_window(visit):
    page = visit()
    page.locator('.cell[data-kind=output][data-i="1"][data-j="2"]').hover()
    window = page.locator(".window")
    assert [window.get_attribute(a) for a in ("x", "y", "width", "height")] == ["4", "2", "3", "3"]
    assert "row 2, column 3 is" in page.locator("#say").inner_text() and "rows 3–5, columns 5–7" in page.locator("#say").inner_text()
    best = values(page)[2:5, 4:7].max()
    assert label(page, "output", 1, 2) == f"output row 2, column 3: {best}"
    assert page.locator(".max").count() == (values(page)[2:5, 4:7] == best).sum()
    assert "at=1,2" in page.url


def test_pooling_by_keyboard_alone(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "z"
    page.keyboard.press("ArrowLeft")                       # z = 2
    assert page.locator("#zv").inner_text() == "2" and page.locator("[aria-pressed=true]").inner_text() == "2 / 2 plain"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.kind") == "input": break
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("input row 1, column 1")
    before = values(page)
    for key in ("ArrowDown", "ArrowRight", "9", "ArrowRight", "+", "ArrowUp", "-"): page.keyboard.press(key)
    wanted = before.copy()
    wanted[1, 1], wanted[1, 2], wanted[0, 2] = 9, (before[1, 2] + 1) % 10, (before[0, 2] - 1) % 10
    assert (values(page) == wanted).all()
    assert label(page, "output", 0, 0) == "output row 1, column 1: 9"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.kind") == "output"
    page.keyboard.press("ArrowRight")
    assert page.locator(".window").get_attribute("x") == "2"
    focus = page.evaluate("getComputedStyle(document.activeElement.querySelector('.focus')).visibility")
    assert focus == "visible"


def test_every_control_has_a_name(visit):
    page = visit()
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, [role=button]')].filter(e =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length""")
    assert nameless == 0
    assert page.locator("#say").get_attribute("aria-live") == "polite"


def test_pooling_click_and_shift_click(visit):
    page = visit()
    before, cell = values(page), page.locator('.cell[data-kind=input][data-i="3"][data-j="3"]')
    cell.click()
    assert values(page)[3, 3] == (before[3, 3] + 1) % 10
    cell.click(modifiers=["Shift"])
    assert (values(page) == before).all()


def test_pooling_keeps_its_state_in_the_address(visit):
    page = visit()
    page.locator("#s").fill("1")
    page.locator("[value=same]").check()
    page.locator('.cell[data-kind=input][data-i="0"][data-j="6"]').click()
    page.locator('.cell[data-kind=output][data-i="4"][data-j="5"]').hover()
    state = page.url.split("#")[1]
    assert "z=3&s=1&pad=same&at=4,5&x=" in state
    again = visit(state=state)
    assert (values(again) == values(page)).all() and again.locator("#say").inner_text() == page.locator("#say").inner_text()
    again.evaluate("location.hash = 'z=2&s=3'")
    again.wait_for_function("document.querySelector('#say').textContent.startsWith('0 of 49')")
    again.locator("#reset").click()
    assert again.locator("#say").inner_text().startswith("24 of 49")


@pytest.mark.parametrize("state", ["z=9&s=0", "z=x&s=&pad=maybe", "x=123&at=8,8", "at=-1,2", "%%%", "z=2.5"])
def test_pooling_survives_a_foreign_address(visit, state):
    assert visit(state=state).locator("#say").inner_text().startswith("24 of 49")


def test_pooling_slides_and_stops(visit):
    page = visit(state="z=5&s=2")
    page.locator("#slide").click()
    page.wait_for_function("document.querySelector('#slide').textContent === 'Slide the window' && location.hash.includes('at=1,1')", timeout=8000)
    page.locator("#peak").click()
    assert values(page).sum() == 9 and label(page, "output", 0, 0).endswith(": 9")
    page.locator("#shuffle").click()
    assert len(np.unique(values(page))) > 3


@each_page
@pytest.mark.parametrize("width, scheme", [(900, "light"), (900, "dark"), (390, "light"), (390, "dark")])
def test_pages_fit_and_are_not_blank(visit, page, width, scheme):
    shown = visit(page.stem, width=width, scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    picture = np.asarray(Image.open(BytesIO(shown.screenshot(full_page=True))).convert("RGB")).astype(int)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert (picture[:3, :3].mean() < 60) == (scheme == "dark")
    # text against its ground: the least contrast in the page's own words (WCAG asks for 4.5)
    worst = shown.evaluate("""() => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const rgb = color => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); };
        const light = c => { const [r, g, b] = rgb(c); return .2126 * r + .7152 * g + .0722 * b; };
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(', 0)') && c !== 'transparent') return c; } return 'white'; };
        return Math.min(...[...document.querySelectorAll('h1, p, b, em, label, button, legend, li, figcaption')].filter(e => e.offsetParent).map(e => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x); return (a + .05) / (b + .05); })); }""")
    assert worst >= 4.5


def test_a_picture_without_scripts(visit):
    page = visit(scripts=False)
    assert page.locator("noscript svg").is_visible() and "24 of the 49" in page.locator("noscript").inner_text()
    assert not page.locator("#app").is_visible()


# ---- embedded ----
@pytest.mark.parametrize("width", [860, 390])
def test_embedded_in_a_notebook(visit, width):
    page = visit(content=f"<!doctype html><body style='margin:0'>{show_explorer('pooling', height=300, state='z=2&s=3').data}</body>", width=width)
    frame = page.frame_locator("iframe")
    frame.locator("#say").wait_for()
    assert frame.locator("#say").inner_text().startswith("0 of 49")
    page.wait_for_function("parseInt(document.querySelector('iframe').style.height) > 500")
    frame.locator("[data-z='3']").click()
    assert frame.locator("#say").inner_text().startswith("24 of 49")
    inside = page.frames[1].evaluate("[document.documentElement.scrollHeight, innerHeight]")
    assert inside[0] <= inside[1] + 1, "a scroll bar inside the frame"


def test_linked_from_a_page(visit, tmp_path, browser):
    shutil.copytree(FOLDER, tmp_path / "explorers")
    text = link_explorers(show_explorer("pooling", state="z=5&s=1").data)
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{text}</body>", "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("#say").wait_for()
    assert frame.locator("#say").inner_text().startswith("45 of 49")
    page.wait_for_function("document.querySelector('iframe').style.height !== '730px'")
    page.close()
