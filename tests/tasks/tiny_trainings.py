"""One small training of every task of the package, on the data of `tests.tasks.pretraining.write_data`."""

from pathlib import Path
from typing import Any, List

from tests.helpers import TINY_TRANSFORMER, succeeded
from tests.tasks.pretraining import PretrainingTask

# Plain gradient descent: it shows a wrong factor of a gradient, which Adam would divide out
RECIPE = (
    "--cpu --seed 1 --num-workers 0 --max-tokens 200 --optimizer sgd --lr 0.5 --log-format json --log-interval 1"
).split()
ENCODER = ("--arch transformer_mlm_base --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 "
           "--encoder-attention-heads 2").split()  # fmt: skip
NO_DROPOUT = ["--dropout", "0", "--attention-dropout", "0"]
TRANSLATION = ["--arch", "transformer_mt", *TINY_TRANSFORMER[2:], "--encoder-langtok", "tgt"]
TEXTS = ["--tokens-per-sample", "48"]
TASKS = {
    # two passes through a model before its gradients
    "mt6_pretraining": [*TEXTS, "--arch", "transformer_mt", *TINY_TRANSFORMER[2:]],
    # ranks have unequal numbers of masked tokens; at 0.5 the loss of this model grows within five updates
    "pseudo_masked_lm": [*TEXTS, "--arch", "unilmv2_tiny", "--encoder-layers", "2", *NO_DROPOUT, "--lr", "0.03"],
    # replacements are drawn on each rank, and those of a batch are the same on any
    "electra": [*TEXTS, "--arch", "electra_tiny", "--encoder-layers", "2", *NO_DROPOUT, "--hardness", "loss",
                "--lr", "0.0005", "--texts", "mono,pairs"],
    # parts of the student get no gradient, and each rank reads the teacher
    "relation_distillation": [*TEXTS, *ENCODER, "--encoder-layers", "1", *NO_DROPOUT, "--lr", "0.3",
                              "--relation-heads", "4", "--teacher", "TEACHER"],
    "translation_multi_validated": [*TRANSLATION, "--valid-lines", "3", "--valid-scores", "bleu"],
    "translation_multi_temperature_ramp": [*TRANSLATION, "--sampling-temperature-epochs", "2"],
}  # fmt: skip
PRETRAINING = ("mt6_pretraining", "pseudo_masked_lm", "electra", "relation_distillation")
CRITERIONS = {"electra": "electra_hardness"}  # others have the task's name


def words_of(task: str, data: Path) -> List[Any]:
    """Of `fairseq-train`; what is missing is where it saves and how long it trains."""
    words = [data, "--task", task, *RECIPE]
    if task in PRETRAINING:
        words += ["--criterion", CRITERIONS.get(task, task)]
    else:
        words += ["--criterion", "chunked_label_smoothed_cross_entropy", "--lang-pairs", data / "lang_pairs.txt"]
        words += ["--langs", "de,en,fr", "--fixed-dictionary", data / "dict.txt"]
    return [*words, *(teacher_of(data) if word == "TEACHER" else word for word in TASKS[task])]


def teacher_of(data: Path) -> Path:
    """A masked language model that has learned nothing, made once."""
    run = data.parent / "teacher"
    if not run.exists():
        task = PretrainingTask("pseudo_masked_lm", [*ENCODER, "--encoder-layers", "2", "--objectives", "ae"])
        succeeded(task.train(data, run, 1))
    return run / "checkpoint_last.pt"
