"""Scores of one direction: each language with its own words beside 13a."""

import sacrebleu

from fairseq_plugins.opus100 import scoring
from fairseq_plugins.opus100.scoring import Job, own_tokenizer, score_files


def test_tokenizers_of_languages(monkeypatch):
    there = {"MeCab", "ipadic"}
    monkeypatch.setattr(scoring, "find_spec", lambda name: name in there or None)
    found = {language: own_tokenizer(language) for language in ("de", "zh", "zh_TW", "th", "ja", "ko", "cmn")}
    assert found == {"de": "13a", "zh": "zh", "zh_TW": "zh", "th": "char", "ja": "ja-mecab", "ko": "char", "cmn": "zh"}
    there.clear()
    assert own_tokenizer("ja") == "char"


def test_chinese_has_its_own_words(tmp_path):
    """13a makes one word of a Chinese line; both scores are sacreBLEU's."""
    texts = {"hypotheses": ["今天天气好。", "我在看一本书"], "references": ["今天天气很好。", "我在看书"]}
    for name, text in texts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text))
    job = Job(tmp_path / "hypotheses", tmp_path / "references", "zh", ("en", "zh"), "script")
    score = score_files(job, lambda lines: None)
    for value, tokenizer in ((score.bleu, "13a"), (score.bleu_own, "zh")):
        expected = sacrebleu.corpus_bleu(texts["hypotheses"], [texts["references"]], tokenize=tokenizer).score
        assert value == expected
    assert score.bleu_own > score.bleu and "tok:zh" in score.signatures["bleu_own"]
    assert "tok:13a" in score.signatures["bleu"] and score.off_target == (0, 0, "script")
