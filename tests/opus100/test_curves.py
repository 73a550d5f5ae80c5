"""Which logged names the report draws, and that the document explains each."""

import json
import re

import pytest

from fairseq_plugins.modules.moe.router_losses import SCALARS
from fairseq_plugins.opus100.curves import LOGGED, MOE, described, read_log
from tests.helpers import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_everything_that_routers_report_is_drawn():
    assert tuple(MOE) == SCALARS
    assert {f"{split}moe_{name}" for name in SCALARS for split in ("", "valid_")} <= LOGGED.keys()


@pytest.mark.parametrize("name", [*LOGGED, "encoder_grad_1of4", "decoder_grad_4of4"])
def test_every_name_is_described_and_documented(name):
    counter, meaning = described(name)
    assert counter.endswith("num_updates") and meaning
    rows = [line for line in DOCUMENT.split("\n") if line.startswith("| `")]
    wanted = re.sub(r"\d+of\d+", "<i>of<n>", name)
    assert [row for row in rows if f"`{wanted}`" in row.split("|")[1]], f"{wanted} is not in the table of logged names"


@pytest.mark.parametrize(
    "name, says",
    [
        ("valid_macro_bleu", "BLEU on the sample of dev lines, mean over all directions"),
        ("valid_from_en_nll_loss", "mean over the directions from en"),
        ("valid_into_zh_cn_sentence_chrf", "mean over the directions into zh cn"),
        ("valid_low_nll_loss", "mean over the directions of low train lines"),
    ],
)
def test_groups_of_directions_are_drawn(name, says):
    counter, meaning = described(name)
    assert counter == "valid_num_updates" and says in meaning
    kind = name.split("_", 2)[2] if "macro" in name else re.search("(nll_loss|bleu|sentence_chrf)$", name)[1]
    assert f"`valid_<group>_{kind}`" in DOCUMENT


@pytest.mark.parametrize("name", ["valid_de-en_bleu", "ppl", "grad_1of4", "valid_moe_", "moe_layers", "train_loss"])
def test_other_names_are_not_drawn(name):
    assert described(name) is None


def test_each_name_is_read_at_its_own_updates(tmp_path):
    """Lines as the engine writes them in training, after a validation and after an epoch."""
    lines = [{"epoch": 1, "loss": "9.5", "moe_load_max": "2.25", "moe_gate": "0.5", "num_updates": "10"},
             {"epoch": 1, "valid_loss": "9", "valid_moe_dropped": "0.125", "valid_num_updates": "12"},
             {"epoch": 1, "train_loss": "8", "train_sampling_temperature": "1.5", "train_num_updates": "14"}]
    (tmp_path / "train.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_log(tmp_path / "train.log").series == {
        "loss": [(10, 9.5)], "moe_load_max": [(10, 2.25)], "moe_gate": [(10, 0.5)],
        "valid_loss": [(12, 9.0)], "valid_moe_dropped": [(12, 0.125)], "train_sampling_temperature": [(14, 1.5)],
    }  # fmt: skip
