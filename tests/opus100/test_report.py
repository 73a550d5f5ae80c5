"""opus100 report: the page is parsed and its numbers compared with what went in."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fairseq_plugins.opus100.charts import bar_chart, line_chart, nice_ticks, short_number, thin
from fairseq_plugins.opus100.curves import read_log
from fairseq_plugins.opus100.published import published_bleu
from fairseq_plugins.opus100.release import DIRECTIONS, TEST_LINES
from tests.opus100.report_inputs import KINDS, write_results, write_run
from tests.opus100.road import verb

VOID = {"meta", "br", "rect", "circle", "line"}


class Page(HTMLParser):
    """Tables as lists of rows of cell texts, the text of <pre>, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.blocks, self.tags, self.attributes, self._open = [], [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "pre":
            self.blocks.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self._open and self._open[-1] == "pre":
            self.blocks[-1] += data


def test_the_log_survives_restarts(tmp_path):
    log = read_log(write_run(tmp_path / "run") / "train.log")
    assert log.series["loss"] == [(10, 9.0), (20, 8.0), (25, 50.0), (30, 7.0), (50, 6.0)]
    assert log.series["valid_loss"] == [(20, 8.5)]
    assert log.series["gnorm"][-1] == (50, 0.5)
    assert log.restarts == 1
    assert log.series["encoder_grad_1of2"] == [(10, 0.25), (20, 0.25), (25, 0.25), (30, 0.25)]
    assert "other_grad_1of2" not in log.series and "num_updates" not in log.series


def test_the_page_of_one_system(tmp_path, capsys):
    results = write_results(tmp_path / "mine", [40.0, 35.5, 20.25, 10.0, 3.0, 0.0])
    output = tmp_path / "new" / "report.html"
    words = ["--results", results, "--runs", write_run(tmp_path / "run"), "--title", "<b>Us</b>", "--output", output]
    assert verb("report", *words) == 0
    text = output.read_text()
    page = Page(text)
    averages, published, ratios, directions, settings, about, pairs = page.tables  # test sets of the release's size
    assert len(published) == 1 + 1 + 10 + 2 and published[1][0] == "mine" and set(published[1][1:]) == {"-"}
    # 10.0 and 35.5 against 28.1 and 24.9 of fr-en and en-de, 40.0 and 20.25 against 29.2 and 26.5 of de-en and en-fr
    assert ratios[1] == ["Transformer 6L", "50.0 (2)", "50.0 (2)", "0.0 (2)"]
    assert averages[1] == ["supervised (4 directions)", "26.44", "50.00"]
    assert averages[2:] == [["zero-shot (2 of 30 directions)", "-", "-"]]
    assert ["en-fr", "supervised", "20.25", "40.50", "2000", "2", "1.50"] in directions
    assert len(directions) == 7 and "all directions: mine 15." in text  # 0 + 1 + ... + 5 truncated
    assert ["training data", "temperature:5"] in settings and ["machine", "a <machine>"] in settings
    assert ["vocabulary", "character_coverage 0.9995, model_type bpe"] in settings
    assert sorted(about[1:]) == [["languages", "de, en, fr"], ["prepare options seed", "1"], ["sha256 dict.txt", "d1"],
                                 ["vocabulary character_coverage", "0.9995"], ["vocabulary model_type", "bpe"]]
    assert pairs == [["pair", "kind", "test lines", "train lines", "train kept"],
                     ["de-fr", "zero-shot", "20", "-", "-"], ["de-en", "supervised", "20", "200", "199"]]
    assert page.blocks == ["fairseq-train --arch <x>\n", "evaluate --data 'a & b'"]
    assert "<b>Us" not in text and "&lt;b&gt;Us" in text
    for name in ("loss", "valid_loss", "lr", "gnorm", "encoder_grad_1of2"):
        assert f"<h3>{name}</h3>" in text
    assert "gradient norm of the encoder&#x27;s layers in band 1 of 2 from the lowest" in text
    assert "Starts that repeated updates: mine 1." in text


def test_the_page_needs_nothing_but_itself(tmp_path):
    """No outside reference; the policy allows one script, by the hash of what stands in the page."""
    words = ["--results", write_results(tmp_path / "mine", [1.0] * 6), "--output", tmp_path / "report.html"]
    assert verb("report", *words) == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags) and page.tags.count("script") == 1
    outside = [found for found in page.attributes if found[1] in ("src", "href") or "url(" in (found[2] or "")]
    assert outside and all(value.startswith("#part") for _, _, value in outside)
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in (value or ""))
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
    assert "url(" not in text and "@import" not in text and "//" not in policy


def test_systems_side_by_side(tmp_path):
    ours = write_results(tmp_path / "ours", [30.0, 30.0, 20.0, 10.0, 5.0, 5.0])
    stock = write_results(tmp_path / "stock", [20.0, 30.04, 21.0, 5.0, 1.0, 5.0])
    words = ["--results", ours / "results.json", stock, "--names", "deep <1>", "stock", "--baseline", "stock"]
    assert verb("report", *words, "--output", tmp_path / "report.html") == 0
    page = Page((tmp_path / "report.html").read_text())
    averages, wins, _, _, directions, _ = page.tables
    assert averages[0] == ["average over", "deep <1>\nBLEU", "deep <1>\nchrF", "stock\nBLEU", "stock\nchrF"]
    assert wins[1] == ["deep <1>", "supervised (4)", "2", "1", "1", "50.0", "+3.49"]
    assert wins[2:] == [["deep <1>", "x-en (2)", "2", "0", "0", "100.0", "+7.50"],
                        ["deep <1>", "en-x (2)", "0", "1", "1", "0.0", "-0.52"],
                        ["deep <1>", "zero-shot (2)", "1", "1", "0", "50.0", "+2.00"]]
    assert directions[1][:6] == ["de-en", "supervised", "30.00", "20.00", "60.00", "40.00"]


def test_new_columns_beside_an_older_result(tmp_path):
    """What the older file lacks is a dash; its missing directions are not compared."""
    write_results(tmp_path / "old", [30.0, 30.0, 20.0, 10.0, 5.0, 5.0])
    new = json.loads((write_results(tmp_path / "new", [31.0] * 6) / "results.json").read_text())
    more = {"bleu_low": 30.25, "bleu_high": 31.75, "bleu_own": 40.0, "tokenizer": "zh", "off_target": 12.5}
    new["directions"] = [{**row, **more} for row in new["directions"] if row["direction"] != "fr-en"]
    new["averages"]["supervised"] = {"bleu": None, "chrf": None, "off_target": None, "directions": 3, "missing": 1,
                                     "lacking": ["fr-en"]}
    new["averages"]["zero-shot"] |= {"off_target": 12.5}
    new.update(identifier="py3langid <0.4>", signatures={**new["signatures"], "bleu_own": {"zh": "tok:zh"}})
    (tmp_path / "new" / "results.json").write_text(json.dumps(new))
    words = ["--results", tmp_path / "new", tmp_path / "old", "--baseline", "old", "--output", tmp_path / "report.html"]
    assert verb("report", *words) == 0
    text = (tmp_path / "report.html").read_text()
    averages, wins, _, _, directions, settings = Page(text).tables
    assert averages[0][1:4] == ["new\nBLEU", "new\nchrF", "new\noff-target %"]
    assert averages[2] == ["zero-shot (2 of 30 directions)", "-", "-", "12.50", "-", "-", "-"]
    assert "new: supervised is not averaged: it lacks fr-en." in text
    assert "old: zero-shot is not averaged: it lacks 28." in text
    assert wins[1] == ["new", "supervised (3 of 4)", "3", "0", "0", "100.0", "+4.33"]
    first = dict(zip(directions[0], directions[1], strict=True))
    assert (first["new\noff-target %"], first["old\noff-target %"]) == ("12.50", "-")
    assert (first["new\nlow"], first["new\nhigh"], first["new\ntokenizer"]) == ("30.25", "31.75", "zh")
    assert "new\nseen by" not in first and ["off-target", "py3langid <0.4>", "-"] in settings
    assert ["BLEU own", "tok:zh", "-"] in settings


def test_a_full_result_beside_the_published_ones(tmp_path):
    """The published 6-layer system in the place of ours, 0.1 better in every direction but one."""
    bleu = {name: value + 0.1 for name, value in published_bleu()["Transformer 6L"].items()} | {"en-de": 1.0}
    results = json.loads((write_results(tmp_path / "mine", [0.0] * 6) / "results.json").read_text())
    results["directions"] = [{"direction": name, "kind": kind, "bleu": bleu[name], "chrf": 1.0, "truncated": None,
                              "hypotheses": full_test_lines(name)} for name, kind in DIRECTIONS.items()]
    (tmp_path / "mine" / "results.json").write_text(json.dumps(results))
    words = ["--results", tmp_path / "mine", "--output", tmp_path / "report.html"]
    assert verb("report", *words) == 0
    _, published, ratios, _, settings = Page((tmp_path / "report.html").read_text()).tables
    assert published[0][:3] == ["BLEU over", "supervised (188)", "x-en (94)"] and published[0][-1] == "zero-shot (30)"
    mine, first = (dict(zip(published[0], row, strict=True)) for row in published[1:3])
    assert (first["x-en (94)"], first["en-x (94)"], first["en-x low (21)"]) == ("27.60", "19.50", "15.18")
    assert (mine["x-en (94)"], mine["en-x (94)"]) == ("27.70", "19.34")  # 19.50 + 0.1 - (25.0 - 1.0) / 94
    deepnet = dict(zip(published[0], published[-1], strict=True))
    assert deepnet["BLEU over"] == "DeepNet, 1,000 layers, 3.8B" and deepnet["en-x (94)"] == "30.20"
    assert deepnet["zero-shot (30)"] == "-"
    assert ratios[0] == ["win ratio % over", "mine\nx-en", "mine\nen-x", "mine\nzero-shot"]
    assert ratios[1] == ["Transformer 6L", "100.0 (94)", "98.9 (94)", "100.0 (30)"]
    assert ["OPUS-100", "all 188 supervised directions, 94 pairs"] in settings


def full_test_lines(direction):
    source, target = direction.split("-")
    return TEST_LINES.get(source if target == "en" else target, 2000) if "en" in (source, target) else 2000


@pytest.mark.parametrize(
    "words, said",
    [
        (["--results", "nowhere.json"], "nowhere.json does not exist"),
        (["--results", "mine", "other"], "differ in their subset"),
        (["--results", "mine", "--names", "a", "b"], "--names has 2 values for 1"),
        (["--results", "mine", "mine"], "are not different"),
        (["--results", "mine", "--baseline", "x"], "--baseline x"),
        (["--results", "mine", "--runs", "nowhere"], "--runs nowhere"),
        (["--results", "damaged.json"], "damaged"),
        (["--results", "mine", "--data", "mine"], "holds no manifest.json"),
        (["--results", "mine", "--examples", "0"], "--examples 0 must be at least 1"),
        (["--results", "mine", "--output", "/dev/null/x/report.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "mine", [1.0] * 6)
    write_results(tmp_path / "other", [1.0] * 6, subset="dev")
    (tmp_path / "damaged.json").write_text("{")
    assert verb("report", "--output", "report.html", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_bars_of_a_supervised_pair_without_the_pivot(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "de-fr", "supervised")
    words = ["--results", write_results(tmp_path / "mine", [1.0] * 6), "--output", tmp_path / "report.html"]
    assert verb("report", *words) == 0
    charts = (tmp_path / "report.html").read_text().split("<figure>")[1:]
    labels = {chart.partition("<h3>")[2].partition("</h3>")[0]: [
        direction for direction in ("de-fr", "fr-de") if f">{direction}</text>" in chart] for chart in charts}
    assert labels == {"from en": [], "into en": [], "supervised without en": ["de-fr"], "zero-shot": ["fr-de"]}


def test_line_chart_places_points():
    """Two points at opposite corners of the frame, and everything escaped."""
    svg = ElementTree.fromstring(line_chart('a "<b>"', {"<x>": [(0, 0.0), (100, 4.0)], "empty": []}))
    points = [line.get("points") for line in svg.iter("polyline")]
    assert points == ["48.0,194.0 390.0,8.0", ""]
    assert svg.find("title").text == 'a "<b>"'


def test_bar_chart_scales_bars():
    svg = ElementTree.fromstring(bar_chart("bars", [("de", [20.0, None]), ("<fr>", [40.0, 10.0])], most=40))
    assert [float(bar.get("width")) for bar in svg.iter("rect")] == [149.0, 298.0, 74.5]
    assert [text.text for text in svg.iter("text")] == ["de", "20.0", "<fr>", "40.0", "10.0"]


def test_ticks_are_round_and_enclose():
    assert nice_ticks(0.3, 9.1) == [0, 5, 10]
    assert nice_ticks(2.0, 4.0) == [2.0, 2.5, 3.0, 3.5, 4.0]
    flat = nice_ticks(5.0, 5.0)
    assert flat[0] < 5 < flat[-1]
    assert [short_number(value) for value in (0.0005, 12.5, 0, 4000)] == ["5e-4", "12.5", "0", "4000"]


def test_long_curves_are_thinned_at_both_ends_exactly():
    series = [(i, float(i)) for i in range(5000)]
    assert len(thin(series)) == 800 and thin(series)[0] == (0, 0.0) and thin(series)[-1] == (4999, 4999.0)
