"""The page in a real browser: it renders, fits, answers to pointer, touch and keys."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium_pipe import Chromium, Page
from journal_check import evaluate, journal_of

from tersenet.run.record import RunSummary

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def opened(chromium: Chromium, page_file: Path) -> Iterator[Open]:
    tabs: list[Page] = []

    def open_(path: Path = page_file, **options: Any) -> Page:
        tabs.append(chromium.open(path.as_uri(), **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.call("Page.close")


def complaints(tab: Page) -> list[dict[str, Any]]:
    return tab.events("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def centre(tab: Page, selector: str, part: str) -> tuple[float, float]:
    """Scrolls the first visible match into view and returns the middle of its part."""
    x, y = tab.evaluate(
        f"""(async () => {{
            const shown = node => node.getBoundingClientRect().width > 0;
            const mark = [...document.querySelectorAll({json.dumps(selector)})].find(shown);
            mark.scrollIntoView({{ block: "center", behavior: "instant" }});
            await {SETTLED};
            const box = mark.querySelector({json.dumps(part)}).getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
    )
    return x, y


def tip(tab: Page) -> str | None:
    return tab.evaluate(
        "(() => { const tip = document.getElementById('tip');"
        "return tip.hidden ? null : tip.innerText; })()"
    )


def test_it_renders_without_a_complaint_or_a_request(opened: Open, page_file: Path):
    tab = opened()
    assert tab.evaluate("document.querySelector('h1').textContent") == "fashion-resnet20"
    assert tab.evaluate("document.querySelectorAll('svg.plot').length") == 9
    assert complaints(tab) == []
    asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}


def test_every_figure_in_the_document_equals_the_journal(opened: Open, run: RunSummary):
    found = opened().evaluate(
        "[...document.querySelectorAll('[data-figure]')]"
        ".map(node => [node.dataset.figure, node.dataset.value])"
    )
    journal = journal_of(run)
    assert len(found) > 400
    for source, value in found:
        expected = evaluate(source, journal)
        assert json.loads(value) == pytest.approx(expected, rel=1e-9, abs=1e-12), source


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(opened: Open, width: int):
    tab = opened(width=width)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = tab.evaluate(
        f"""[...document.body.querySelectorAll("*")]
            .filter(node => !node.closest(".scroll > *, pre > *, .unseen, .skip-link"))
            .filter(node => node.getBoundingClientRect().right > {width} + 0.5)
            .map(node => node.outerHTML.slice(0, 120))"""
    )
    assert wide == []


def test_the_ladder_fits_a_desktop_without_scrolling(opened: Open):
    box = "document.querySelector('#ladder .scroll')"
    tab = opened(width=1280)
    assert tab.evaluate(f"{box}.scrollWidth - {box}.clientWidth") <= 0
    assert tab.evaluate(f"{box}.clientWidth") > 1100


def test_hovering_a_point_shows_its_exact_figures(opened: Open, run: RunSummary):
    tab = opened()
    x, y = centre(tab, ".scatter .mark:nth-of-type(2)", ".disc")
    assert tip(tab) is None
    tab.hover(x, y)
    said = tip(tab)
    assert said is not None
    first = run.steps[0]
    assert said.startswith("0 original")
    assert f"{first.cost.latency[0].p50_ms:.4f} ms" in said
    assert f"{first.cost.file_bytes:,} B" in said
    before = tab.evaluate("document.getElementById('tip').getBoundingClientRect().x")
    tab.hover(x - 5, y)
    after = tab.evaluate("document.getElementById('tip').getBoundingClientRect().x")
    assert after == pytest.approx(before - 5)
    tab.hover(4, 4)
    assert tip(tab) is None
    assert complaints(tab) == []


def test_hovering_a_strip_shows_the_sample_under_the_pointer(opened: Open, run: RunSummary):
    tab = opened()
    x, y = centre(tab, ".strip", ".p50")
    tab.hover(x, y)
    said = tip(tab)
    assert said is not None
    title, name, value = said.replace("\t", "\n").split("\n")[:3]
    number, milliseconds = int(name.removeprefix("sample ")), float(value.removesuffix(" ms"))
    latency = run.steps[0].cost.latency[0]
    assert title == "0 original"
    assert milliseconds == pytest.approx(latency.samples_ms[number - 1], abs=5.1e-5)
    assert milliseconds == pytest.approx(latency.p50_ms, rel=0.05)


def test_touching_shows_and_touching_elsewhere_hides(opened: Open):
    tab = opened(width=390)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y = centre(tab, ".scatter.narrow .mark:nth-of-type(3)", ".disc")
    tab.tap(x, y)
    said = tip(tab)
    assert said is not None
    assert said.startswith("1 prune l1")
    box = tab.evaluate(
        "(() => { const b = document.getElementById('tip').getBoundingClientRect();"
        "return [b.left, b.right]; })()"
    )
    assert box[0] >= 0
    assert box[1] <= 390
    tab.tap(195, 10)
    assert tip(tab) is None


def test_keys_reach_points_and_walk_through_samples(opened: Open, run: RunSummary):
    tab = opened()
    tab.evaluate("document.querySelector('#batch-1').focus()")
    tab.press("Tab")
    assert (tip(tab) or "").startswith("0 original")
    tab.press("Escape")
    assert tip(tab) is None
    tab.evaluate("document.querySelector('.strip').focus()")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.evaluate(SETTLED)
    said = tip(tab)
    assert said is not None
    assert "sample 2\n" in said
    assert f"{run.steps[0].cost.latency[0].samples_ms[1]:.4f} ms" in said
    spoken = tab.evaluate("document.getElementById('said').textContent")
    assert spoken.startswith("sample 2: ")


def test_the_selector_shows_one_batch_at_a_time(opened: Open):
    tab = opened()
    shown = (
        "[...document.querySelectorAll('.panel')]"
        ".map(panel => panel.getBoundingClientRect().height > 0)"
    )
    assert tab.evaluate(shown) == [True, False, False]
    tab.evaluate("document.querySelector('label[for=batch-64]').click()")
    assert tab.evaluate(shown) == [False, False, True]


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_of_the_plots_do_not_overlap(opened: Open, width: int):
    tab = opened(width=width)
    overlapping = tab.evaluate(
        """(() => {
            const bad = [];
            for (const radio of document.querySelectorAll("input[name=batch]")) {
                radio.checked = true;
                for (const plot of document.querySelectorAll("svg.plot")) {
                    const texts = [...plot.querySelectorAll("text")]
                        .map(node => [node.textContent, node.getBoundingClientRect()])
                        .filter(([, box]) => box.width > 0);
                    const frame = plot.getBoundingClientRect();
                    texts.forEach(([text, a], n) => {
                        if (a.left < frame.left - 1 || a.right > frame.right + 1) bad.push(text);
                        texts.slice(0, n).forEach(([other, b]) => {
                            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                            if (wide > 1 && high > 3) bad.push(text + " / " + other);
                        });
                    });
                }
            }
            return bad;
        })()"""
    )
    assert overlapping == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(opened: Open, dark: bool):
    # WCAG 2.2, success criterion 1.4.3: 4.5 to 1.
    tab = opened(dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    pale = tab.evaluate(
        r"""(() => {
            const parts = text => text.match(/[\d.]+/g).map(Number);
            const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
            const ground = node => {
                for (; node; node = node.parentElement) {
                    const color = parts(getComputedStyle(node).backgroundColor);
                    if (color.length === 3 || color[3] === 1) return color;
                }
                return [255, 255, 255];
            };
            return [...document.body.querySelectorAll("*")]
                .filter(node => !node.matches("script, style"))
                .filter(node => [...node.childNodes].some(
                    child => child.nodeType === 3 && child.data.trim()))
                .map(node => {
                    const style = getComputedStyle(node);
                    const ink = node.closest("svg") ? style.fill : style.color;
                    const [a, b] = [light(parts(ink)), light(ground(node))];
                    return [node.outerHTML.slice(0, 80),
                            (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
                })
                .filter(([, ratio]) => ratio < 4.5);
        })()"""
    )
    assert pale == []


def test_plots_follow_the_theme(opened: Open):
    color = "getComputedStyle(document.querySelector('.disc')).stroke"
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(dark=False), opened(dark=True)
    assert light.evaluate(color) != dark.evaluate(color)
    assert light.evaluate(ground) != dark.evaluate(ground)


def test_copy_puts_the_command_on_the_clipboard(opened: Open, run: RunSummary):
    tab = opened()
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    tab.browser.call("Browser.grantPermissions", permissions=allowed)
    tab.call("Page.bringToFront")
    tab.evaluate("document.querySelector('[data-copy=command]').click()")
    tab.evaluate(SETTLED)
    assert tab.evaluate("document.querySelector('[data-copy=command]').textContent") == "Copied"
    assert tab.evaluate("navigator.clipboard.readText()") == run.header.command


def test_what_the_run_says_does_not_run(opened: Open):
    tab = opened()
    assert tab.evaluate("String(window.hacked)") == "undefined"
    assert "<script>" in tab.evaluate("document.getElementById('recipe').textContent")


def test_even_unescaped_markup_could_neither_run_nor_call(opened: Open, page: str, tmp_path: Path):
    bad = "<script>window.hacked = 1</script><img src='http://example.invalid/x.png'>"
    path = tmp_path / "bad.html"
    path.write_text(page.replace("<footer>", f"<footer>{bad}"), encoding="utf-8")
    tab = opened(path)
    assert tab.evaluate("String(window.hacked)") == "undefined"
    refusals = [entry["entry"]["text"] for entry in tab.events("Log.entryAdded")]
    assert sum("Content Security Policy" in text for text in refusals) == 2
