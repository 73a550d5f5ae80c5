import pytest

PRINTED = """S-1\t__en__ ein Hund
H-1\t-0.5\ta dog
D-1\t-0.5\ta dog
D-0\t-0.25\ta  cat
2026-11-21 10:00:00 | INFO | fairseq_cli.generate | Translated 1,002 sentences (12,345 tokens) in 12.5s (80.16 ...)
"""


@pytest.fixture(scope="module")
def benchmark(module):
    return module("serve")


def test_reading_what_fairseq_generate_prints(benchmark):
    assert benchmark.hypotheses(PRINTED) == ["a  cat", "a dog"]
    assert benchmark.generation_seconds(PRINTED) == 12.5


def test_a_sentence_that_is_missing_is_noticed(benchmark):
    with pytest.raises(ValueError, match="left sentences out: 1 came back"):
        benchmark.hypotheses(PRINTED.replace("D-0", "X-0"))
    with pytest.raises(ValueError, match="how long"):
        benchmark.generation_seconds("nothing")


def test_ratios_are_taken_round_by_round_and_scores_must_agree(benchmark, module):
    outcome = benchmark.Outcome
    outcomes = {
        benchmark.STOCK: [outcome(10.0, 100.0, 30.0), outcome(5.0, 200.0, 30.0)],
        "evaluate, ctranslate2 int8": [outcome(30.0, 40.0, 30.4), outcome(15.0, 80.0, 30.4)],
        "evaluate, fairseq": [outcome(10.0, 100.0, 29.8), outcome(6.0, 100.0, 29.8)],
    }
    bleu = {name: rounds[0].bleu for name, rounds in outcomes.items()}
    report = module("_report").Report("A table", "serve", [], write=False)
    benchmark.table(report, outcomes, bleu)
    rows = report.lines[-3:]
    assert "| 3.00 (3.00-3.00) |" in rows[1] and rows[1].endswith("| 30.40 | +0.40 |")
    assert "| 1.10 (1.00-1.20) |" in rows[2]
    assert benchmark.too_far(bleu) == ["evaluate, fairseq"]
