"""The report in a browser: filters, folding, anchors, widths, contrast, and that it asks a network for nothing."""

import itertools
import json
import shutil
import time

import pytest

from paper_tables import figures, jobs, report, tables
from paper_tables.tables import Options
from tests.strategies import QUICK

INSTALL = "apt-get install chromium chromium-driver, and pip install selenium"
webdriver = pytest.importorskip("selenium.webdriver", reason=f"no selenium; to run these tests: {INSTALL}")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
THEMES = ("light", "dark")
WIDTHS = (390, 1440)
SHOWN = [*zip(WIDTHS, THEMES, strict=True)] if QUICK else [*itertools.product(WIDTHS, THEMES)]
LARGE = 24.0  # pixels from which text counts as large (WCAG 2.1), in bold 18.66


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Write a report of tables that take no measuring, and return its address."""
    folder = tmp_path_factory.mktemp("report")
    options = Options(out=folder, quiet=True, profile="cifar10")
    names = ("1", "2", "5", "6", "arithmetic", "significance", "claims", "code")
    found, _ = jobs.regenerate([tables.script(name) for name in names], options)
    some = {number: figures.script(number) for number in ("4", "5")}
    drawn = [report.Figure(n, s.TITLE, s.CAPTION, figures.render(s.draw(), "svg")) for n, s in some.items()]
    return report.write(folder, found, drawn, report.About({"date": "2026-01-02"})).as_uri()


@pytest.fixture(scope="module")
def browser():
    """Start Chromium, or say why not."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(f"no browser with its driver; to run these tests: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def view(browser, address):
    """Return a function that shows the report: in a theme, at a width, with or without JavaScript."""

    def show(width=1440, theme="light", javascript=True, at=""):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not javascript})
        browser.get("about:blank")  # an address that differs in its anchor only would not be loaded again
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(address + at)
        loaded = "return document.readyState === 'complete' && document.URL"
        WebDriverWait(browser, 60).until(lambda b: b.execute_script(loaded) == address + at)  # `get` may return before
        return browser

    yield show
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def shown(browser, selector):
    """The texts of the elements that are displayed, by JavaScript of the test's own."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.textContent)",
        selector,
    )


def choose(browser, name, value):
    browser.execute_script(
        "const e = document.querySelector(`form.filter [name=${arguments[0]}]`); e.value = arguments[1];"
        "e.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )


@pytest.mark.parametrize("theme", THEMES)
def test_the_console_is_silent_and_nothing_is_requested(view, theme, address):
    browser = view(theme=theme)
    choose(browser, "verdict", "holds")
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith((address, "data:", "about:"))] == []


def test_something_that_would_be_requested_is_seen(view):
    """The test above could fail: the page's own policy forbids a request, and the console says so."""
    browser = view()
    browser.execute_script("const i = new Image(); i.src = 'http://localhost:9/x.png'; document.body.append(i)")
    found = []
    for _ in range(50):
        found += browser.get_log("browser")
        if found:
            break
        browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert any("Content Security Policy" in entry["message"] for entry in found)


@pytest.mark.parametrize(("width", "theme"), SHOWN)
def test_no_page_scrolls_sideways(view, width, theme):
    browser = view(width, theme)
    for opened in (False, True):
        if opened:
            browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        size = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert size[0] <= size[1], f"all folds open: {opened}"
        assert size[1] > width - 20  # a scroll bar


def test_what_scrolls_sideways_can_be_reached_by_keyboard(view):
    browser = view(390)
    found = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => e.checkVisibility() && "
        "e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto').map(e => e.tabIndex)"
    )
    assert found
    assert set(found) == {0}


def test_filters_show_what_was_chosen_and_count_it(view):
    browser = view()
    everything = browser.execute_script(
        "return [...document.querySelectorAll('.judgement')].map(g => [g.dataset.verdict,"
        " [...g.querySelectorAll('li')].map(i => [i.dataset.paper, i.dataset.section])])"
    )
    verdicts = {verdict for verdict, _ in everything}
    sections = {section for _, items in everything for _, section in items}
    papers = {paper for _, items in everything for paper, _ in items}
    assert len(papers) == 2
    browser.execute_script("document.querySelector('form.filter [name=open]').click()")
    for verdict, paper, section in [
        ("", "", ""),
        *((verdict, "", "") for verdict in sorted(verdicts)),
        *(("", paper, "") for paper in sorted(papers)),
        *(("", "", section) for section in sorted(sections)[:6]),
        ("fails", "DAQ", "Abstract"),
        ("holds", "DSQ", "Abstract"),
    ]:
        for name, value in (("verdict", verdict), ("paper", paper), ("section", section)):
            choose(browser, name, value)
        expected = [
            sum((paper in ("", p)) and (section in ("", s)) for p, s in items)
            for v, items in everything
            if verdict in ("", v)
        ]
        groups, claims = sum(count > 0 for count in expected), sum(expected)
        assert len(shown(browser, ".judgement")) == groups
        if groups:
            browser.execute_script("document.querySelector('form.filter [name=open]').click()")
            assert len(shown(browser, ".judgement li")) == claims
        said = browser.execute_script("return document.querySelector('form.filter output').textContent")
        plural = ("" if groups == 1 else "s", "" if claims == 1 else "s")
        assert said == f"{groups} judgement{plural[0]}, {claims} claim{plural[1]} shown"


def test_folding(view):
    browser = view()
    first = browser.execute_script(
        "return [...document.querySelectorAll('.judgement')].map(g => [g.dataset.verdict, g.open])"
    )
    assert all(is_open == (verdict in ("fails", "undecided")) for verdict, is_open in first)
    for button, expected in (("open", {True}), ("close", {False})):
        browser.execute_script(f"document.querySelector('form.filter [name={button}]').click()")
        assert (
            set(browser.execute_script("return [...document.querySelectorAll('.judgement')].map(g => g.open)"))
            == expected
        )
    summary = browser.find_element("css selector", ".judgement summary")
    summary.send_keys("\n")  # by keyboard
    assert browser.execute_script("return document.querySelector('.judgement').open")


def folded_target(browser):
    """The id of a line that is folded away."""
    return browser.execute_script(
        "return [...document.querySelectorAll('details:not([open]) tr[id]')].find(e => !e.checkVisibility()).id"
    )


def test_a_link_to_what_is_folded_unfolds_it(view):
    browser = view()
    target = folded_target(browser)
    for how in ("click", "address", "again"):
        if how == "click":
            browser.execute_script("location.hash = arguments[0]", target)
        elif how == "address":
            view(at=f"#{target}")
        else:
            browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = false)")
            browser.execute_script(
                "const a = document.createElement('a'); a.href = '#' + arguments[0];document.body.append(a); a.click()",
                target,
            )
        found = browser.execute_async_script(
            "const e = document.getElementById(arguments[0]); const done = arguments[1];"
            "setTimeout(() => { const b = e.getBoundingClientRect();"
            "done([e.checkVisibility(), b.top, b.bottom]) }, 200)",
            target,
        )
        assert found[0], how
        assert found[1] < 900, how
        assert found[2] > 0, how


def test_every_link_of_the_first_screen_leads_into_view(view):
    browser = view()
    links = browser.execute_script("return [...document.querySelectorAll('nav a, .glance a')].map(a => a.hash)")
    assert len(links) > 10
    for link in links:
        browser.execute_script("location.hash = arguments[0]", link)
        top = browser.execute_async_script(
            "const done = arguments[1]; setTimeout(() => done("
            "document.querySelector(arguments[0]).getBoundingClientRect().top), 30)",
            link,
        )
        assert -5 <= top < 900, link


def test_without_javascript_everything_is_there(view, address):
    browser = view(javascript=False)

    def value(expression):  # scripts of the page do not run, this does
        asked = {"expression": expression, "returnByValue": True}
        return browser.execute_cdp_cmd("Runtime.evaluate", asked)["result"]["value"]

    def count(selector):
        return value(f"document.querySelectorAll({json.dumps(selector)}).length")

    deadline = time.monotonic() + 60
    while value("document.readyState + ' ' + location.href") != f"complete {address}":
        assert time.monotonic() < deadline, "the report was not loaded in a minute"
        time.sleep(0.05)
    assert count("form.filter[hidden]") == count("form.filter") == 1
    assert count(".judgement[hidden], .judgement li[hidden], main [style*='display']") == 0
    assert count(".judgement[open]") > 10
    assert count(".forest circle") > 20


# Contrast, after WCAG 2.1: 4.5 for text, 3 for large text and for what is drawn.


def channels(color):
    """Parse "rgb(1, 2, 3)" or "rgba(1, 2, 3, 0.5)"."""
    values = [float(part) for part in color[color.index("(") + 1 : -1].replace("/", ",").split(",")]
    return values[:3], values[3] if len(values) > 3 else 1.0


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


TEXTS = """
const found = new Map();
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c) && c !== 'transparent') return c;
  }
  return 'rgb(255, 255, 255)';
};
document.querySelectorAll('details').forEach(e => e.open = true);
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const style = getComputedStyle(e);
  const svg = e instanceof SVGElement;
  const drawn = svg && ['text', 'circle', 'path', 'line', 'use'].includes(e.tagName);
  if (!(own && !svg) && !drawn) continue;
  if (!e.checkVisibility() || e.closest('style, script, title, defs')) continue;
  const fill = e.tagName === 'line' ? 'none' : style.fill;
  const colors = svg ? [fill, e.tagName === 'text' ? 'none' : style.stroke] : [style.color];
  for (const color of colors) {
    if (!color.startsWith('rgb')) continue;
    const kind = e.closest('.picture') ? 'picture' : svg ? `drawn ${e.classList[0] || e.tagName}` : 'text';
    const key = [color, ground(e), kind, style.fontSize, style.fontWeight].join('|');
    if (!found.has(key)) found.set(key, [color, ground(e), kind, parseFloat(style.fontSize),
      Number(style.fontWeight), `${e.tagName} .${e.getAttribute('class')} ${e.textContent.trim().slice(0, 40)}`]);
  }
}
return [...found.values()];
"""


@pytest.mark.parametrize(("width", "theme"), SHOWN)
def test_everything_can_be_read(view, width, theme):
    browser = view(width, theme)
    found = browser.execute_script(TEXTS)
    assert len(found) > 15
    (ground, _) = channels(found[0][1])
    assert (luminance(ground) > 0.5) == (theme == "light")
    poor = []
    for color, behind, kind, size, weight, where in found:
        (rgb, opacity), (below, _) = channels(color), channels(behind)
        if opacity < 1:
            rgb = [opacity * c + (1 - opacity) * b for c, b in zip(rgb, below, strict=True)]
        if kind in ("picture", "drawn tick"):  # colours of lines and text of pictures: see the test of their hues
            continue
        large = size >= LARGE or (weight >= 700 and size >= 18.66)
        least = 3.0 if kind != "text" or large else 4.5
        if ratio(rgb, below) < least:
            poor.append((round(ratio(rgb, below), 2), color, behind, kind, where))
    assert poor == []


@pytest.mark.parametrize("theme", THEMES)
def test_the_hues_of_pictures_can_be_read_as_text(view, theme):
    browser = view(theme=theme)
    hues = browser.execute_script(
        "const probe = document.createElement('i'); document.body.append(probe);"
        "return arguments[0].map(n => { probe.style.color = `var(--${n})`; return getComputedStyle(probe).color })",
        ["ink", *(f"hue-{name}" for name in figures.HUES)],
    )
    below, _ = channels(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    for name, color in zip(["ink", *figures.HUES], hues, strict=True):
        assert ratio(channels(color)[0], below) >= 4.5, (name, color)


def test_print_shows_no_controls_and_dark_ink(view):
    browser = view(theme="dark")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "light"}]},
    )
    try:
        assert shown(browser, "nav, form.filter") == []
        ink, _ = channels(browser.execute_script("return getComputedStyle(document.body).color"))
        assert luminance(ink) < 0.05
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
