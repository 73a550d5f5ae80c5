"""The report in a real browser, at the widths of a phone and a desk; skipped without selenium and Chromium."""

import http.server
import json
import shutil
import threading

import pytest

from tests.opus100.report_inputs import KINDS, write_hypotheses, write_results, write_run, write_texts
from tests.opus100.road import verb

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver"),
]

WIDTHS = {"phone": (390, 844), "desk": (1440, 900)}
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> & \"it's\""
NAMES = ("a \"quoted\" <b>name</b> & 'more'", "a_very_long_name_of_a_system_that_nobody_wants_to_read_to_its_end")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of two systems with hostile names and texts, a direction that one of them lacks, and a training log."""
    folder = tmp_path_factory.mktemp("report")
    lines = [HOSTILE, "short", "x" * 5000, "מילים מימין לשמאל", "one more line"]
    data = write_texts(folder / "data", lines)
    scores = {"ours": [9.5, 30.0, 100.0, 10.0, 5.0, 20.0], "theirs": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    for name, bleu in scores.items():
        write_hypotheses(write_results(folder / name, bleu), [HOSTILE, "other", "x" * 4000, "מילים", "one more"])
    found = json.loads((folder / "ours" / "results.json").read_text())
    found["directions"] = [row for row in found["directions"] if row["direction"] != "fr-en"]
    (folder / "ours" / "results.json").write_text(json.dumps(found))
    run = write_run(folder / "run")
    (run / "command.sh").write_text(f"fairseq-train {'--a-flag value ' * 40}\n")
    words = ["--results", folder / "ours", folder / "theirs", "--runs", run, run, "--names", *NAMES, "--title", HOSTILE]
    assert verb("report", *words, "--data", data, "--output", folder / "report.html") == 0
    return folder / "report.html"


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request, report, tmp_path_factory):
    """Chromium with the page open."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        width, height = WIDTHS[request.param]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": request.param == "phone"}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(report.as_uri())
        yield driver
    finally:
        driver.quit()


def requests_of(driver):
    """Addresses that the page asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [its["params"]["request"]["url"] for its in messages if its["method"] == "Network.requestWillBeSent"]


def test_it_asks_for_nothing_and_complains_of_nothing(browser, report):
    browser.get(report.as_uri())
    asked = [url for url in requests_of(browser) if url.startswith(("http", "file"))]
    assert set(asked) == {report.as_uri()}
    assert browser.get_log("browser") == []


def test_the_policy_stops_a_script_that_is_not_ours(browser, report, tmp_path):
    """If a text ever came through unescaped, it would not run and could not load anything."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

    server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/picture"
    hole = f"<script>document.title = 'taken'</script><img src=\"{address}\" onerror=\"document.title = 'taken'\">"
    (tmp_path / "hole.html").write_text(report.read_text(encoding="utf-8").replace("<nav>", hole + "<nav>"))
    try:
        browser.get((tmp_path / "hole.html").as_uri())
        assert browser.title == HOSTILE and not asked
        refused = [entry["message"] for entry in browser.get_log("browser")]
        assert sum("Content Security Policy" in message for message in refused) >= 2
    finally:
        server.shutdown()
        server.server_close()
        browser.get(report.as_uri())
        browser.get_log("browser")


def test_nothing_is_wider_than_the_window(browser):
    """Wide tables and commands scroll in boxes of their own, also with every example open."""
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    page, inside, window, boxes = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth,"
        " [...document.querySelectorAll('.wide, pre')].filter(box => box.scrollWidth > box.clientWidth).length]"
    )
    assert page <= inside <= window and window in [width for width, _ in WIDTHS.values()]
    assert boxes >= 2  # the commands, and the table of directions


def test_text_is_large_enough_to_read(browser):
    """In CSS pixels as drawn: the letters of charts shrink and grow with them."""
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('body, td, th, dt, dd, pre, figcaption')].map(one =>"
        " parseFloat(getComputedStyle(one).fontSize)), ...[...document.querySelectorAll('svg text')].map(one =>"
        " parseFloat(getComputedStyle(one).fontSize) * one.ownerSVGElement.getScreenCTM().a))"
    )
    assert smallest >= 11


def directions_table(driver):
    heads = driver.find_elements("css selector", "h2")
    number = [head.text for head in heads].index("Every direction")
    return heads[number].find_element("xpath", "following::table[1]")


def column(driver, number):
    return driver.execute_script(
        "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].textContent)",
        directions_table(driver),
        number,
    )


def click(driver, button):
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
    button.click()


def test_heads_sort_numbers_as_numbers_and_missing_ones_last(browser, report):
    browser.get(report.as_uri())
    buttons = directions_table(browser).find_elements("css selector", "th button")
    assert buttons[2].text == f"{NAMES[0]}\nBLEU"
    assert column(browser, 0) == ["de-en", "en-de", "en-fr", "de-fr", "fr-de", "fr-en"]  # as written
    click(browser, buttons[2])
    assert column(browser, 2) == ["100.00", "30.00", "20.00", "9.50", "5.00", "-"]
    click(browser, buttons[2])
    assert column(browser, 2) == ["5.00", "9.50", "20.00", "30.00", "100.00", "-"]
    assert column(browser, 0)[0] == "de-fr"  # whole rows move
    click(browser, buttons[0])
    assert column(browser, 0) == sorted(KINDS)
    table = directions_table(browser)
    states = [head.get_attribute("aria-sort") for head in table.find_elements("css selector", "th")]
    assert states[0] == "ascending" and states[1:3] == [None, None]


def test_the_keyboard_sorts(browser, report):
    browser.get(report.as_uri())
    button = directions_table(browser).find_elements("css selector", "th button")[3]
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\ue007")  # Enter
    assert column(browser, 3) == ["6.00", "5.00", "4.00", "3.00", "2.00", "1.00"]
    button.send_keys(" ")
    assert column(browser, 3) == ["1.00", "2.00", "3.00", "4.00", "5.00", "6.00"]


def test_examples_open_and_hostile_text_is_text(browser, report):
    browser.get(report.as_uri())
    assert browser.title == HOSTILE
    assert browser.find_element("css selector", "h1").text == " ".join(HOSTILE.split())
    part = browser.find_element("css selector", ".examples details")
    assert not part.find_element("css selector", "dl").is_displayed()
    click(browser, part.find_element("css selector", "summary"))
    texts = [one.text for one in part.find_elements("css selector", "dd") if one.is_displayed()]
    assert HOSTILE in texts and f"de: {HOSTILE}" in texts
    assert any(text.endswith("[3700 more characters]") for text in texts)
    labels = [one.text for one in part.find_elements("css selector", "dt")]
    assert any(label.startswith(f"{NAMES[0]}, chrF ") for label in labels)
    assert browser.execute_script("return document.querySelectorAll('img, h1 *, dd *, h2 b').length") == 0


def test_right_to_left_text_runs_from_the_right(browser, report):
    browser.get(report.as_uri())
    directions = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('dd')].map(one =>"
        " [one.textContent, getComputedStyle(one).direction]))"
    )
    assert directions["מילים"] == "rtl" and directions[HOSTILE] == "ltr"
