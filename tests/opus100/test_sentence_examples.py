"""Examples of report: which sentences are chosen, and that they are shown as text."""

from fairseq_plugins.opus100 import sentence_examples
from fairseq_plugins.opus100.sentence_examples import choose, cut, examples_html, find_examples
from tests.opus100.report_inputs import write_hypotheses, write_results, write_texts
from tests.opus100.road import verb


def test_the_best_and_the_worst_are_chosen():
    pairs = [(f"source {number}", "one reference") for number in range(6)]
    assert choose([30.0, 90.0, 10.0, 70.0, 50.0, 20.0], pairs, 2) == ([1, 3], [2, 5])


def test_longer_references_go_first_among_equals():
    pairs = [("a", "short"), ("b", "a longer one"), ("c", "short too"), ("d", "the longest of all")]
    assert choose([100.0, 100.0, 0.0, 0.0], pairs, 1) == ([1], [3])


def test_copies_count_once_and_blanks_not_at_all():
    pairs = [("a", "x"), ("a", "x"), ("", "y"), ("z", " "), ("b", "x"), ("c", "x")]
    assert choose([9.0, 9.0, 99.0, 0.0, 5.0, 1.0], pairs, 2) == ([0, 4], [5])


def test_no_sentence_is_both():
    pairs = [("a", "x"), ("b", "x"), ("c", "x")]
    assert choose([3.0, 2.0, 1.0], pairs, 5) == ([0, 1], [2])
    assert choose([3.0], pairs[:1], 5) == ([0], [])
    assert choose([], [], 5) == ([], [])


def test_scores_are_sacrebleus_and_the_mean_ranks(tmp_path):
    from sacrebleu.metrics import CHRF

    data = write_texts(tmp_path / "data", ["the first line", "the second one", "number three"])
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    write_hypotheses(ours, ["en: the first line", "nothing", ""], ["de-en", "fr-de"])
    write_hypotheses(theirs, ["quite wrong", "en: the second one", "en: numb"], ["de-en"])
    found = find_examples(data, "test", [ours, theirs], ["fr-de", "de-en", "en-de"], 1, workers=1)
    assert list(found) == ["fr-de", "de-en"]  # in the order asked for; en-de has no hypotheses
    (best,), (worst,) = found["de-en"]
    assert (worst.line, worst.source, worst.reference) == (3, "de: number three", "en: number three")
    assert [text for text, _ in worst.hypotheses] == ["", "en: numb"] and worst.hypotheses[0][1] == 0
    by_hand = CHRF().sentence_score("en: numb", ["en: number three"]).score
    assert worst.hypotheses[1][1] == by_hand and 0 < by_hand < 100
    means = [sum(score for _, score in its.hypotheses) / 2 for its in (best, worst)]
    assert means[0] > means[1] and 100.0 in [score for _, score in best.hypotheses]
    assert found["fr-de"].best[0].hypotheses[1] is None


def test_no_more_sentences_are_scored_than_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sentence_examples, "SCORED", 2)
    data = write_texts(tmp_path / "data", ["one", "two", "three"])
    write_hypotheses(tmp_path, ["en: one", "en: two", "-"], ["de-en"])
    found = find_examples(data, "test", [tmp_path], ["de-en"], 2, workers=1)
    assert sorted(its.line for part in found["de-en"] for its in part) == [1, 2]


def test_long_lines_are_cut_and_empty_ones_named():
    assert cut("") == cut(" \t") == "(empty)"
    assert cut("x" * 10, 10) == "x" * 10
    assert cut("x" * 15, 10) == "x" * 10 + " [5 more characters]"


def test_what_is_shown_is_text(tmp_path):
    line = "<script>alert('1')</script> & \"quotes\""
    data = write_texts(tmp_path / "data", [line, "another line"])
    write_hypotheses(tmp_path, [line, "en: another"], ["de-en"])
    page = examples_html(find_examples(data, "test", [tmp_path], ["de-en"], 1, workers=1), ["<b>"], {"de-en": "<i>1.0"})
    assert "<script" not in page and "&lt;script&gt;alert(" in page
    assert "<summary>de-en &lt;i&gt;1.0</summary>" in page and "&lt;b&gt;, chrF" in page
    assert '<dt>source, line 1</dt><dd lang="de" dir="auto">de: &lt;script' in page


def test_the_page_has_examples_of_every_direction(tmp_path):
    data = write_texts(tmp_path / "data", ["first line", "second line", "third line"])
    write_hypotheses(write_results(tmp_path / "mine", [40.0, 30.0, 20.0, 10.0, 3.0, 0.0]), ["first line", "no", ""])
    words = ["--results", tmp_path / "mine", "--data", data, "--examples", 1, "--output", tmp_path / "report.html"]
    assert verb("report", *words) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<details>") == 6 and text.count("<dl>") == 12 and "<summary>de-en 40.0</summary>" in text


def test_files_that_do_not_fit_are_one_sentence(tmp_path, capsys):
    data = write_texts(tmp_path / "data", ["first line", "second line"])
    results = write_results(tmp_path / "mine", [1.0] * 6)
    words = ["report", "--results", results, "--data", data, "--output", tmp_path / "report.html"]
    assert verb(*words) == 2
    assert "no hypotheses lie beside" in capsys.readouterr().err
    write_hypotheses(results, ["one line"], ["de-en"])
    assert verb(*words) == 2
    assert "there must be one hypothesis per reference" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
