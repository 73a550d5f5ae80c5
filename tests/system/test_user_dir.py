"""--user-dir as a path and as a bare name, for a checkout and for an installed wheel, under every stock command."""

import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY
from tests.system.installed import run

pytestmark = pytest.mark.system

# only this package has the model, so every command proves that it found the user-dir
MODEL = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "decoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "residual": "deepnorm",
}
WAYS = ["checkout path", "wheel path", "bare name beside a checkout", "bare name of a wheel"]


def test_the_wheel_holds_every_file_of_the_package(wheel):
    wanted = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "fairseq_plugins").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(wanted) > 30
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")} == wanted


def test_the_wheel_brings_its_commands(installation, tmp_path):
    assert run([installation / "fairseq-plugins", "path"], tmp_path).stdout.startswith(str(installation.parent))
    assert "prepare" in run([installation / "fairseq-opus100", "--help"], tmp_path).stdout


@pytest.mark.parametrize("way", WAYS)
def test_every_stock_command_takes_the_user_dir(way, installation, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    binaries, cwd, user_dir, hydra = Path(sys.executable).parent, elsewhere, "fairseq_plugins", []
    if way == "checkout path":
        user_dir = REPOSITORY / "fairseq_plugins"
    elif way == "bare name beside a checkout":
        cwd, hydra = REPOSITORY, ["hydra.job.chdir=False"]  # hydra leaves the directory before fairseq looks around
    else:
        binaries = installation
        if way == "wheel path":
            user_dir = run([binaries / "python", "-m", "fairseq_plugins", "path"], cwd).stdout.strip()
            assert Path(user_dir).is_relative_to(installation.parent)

    def fairseq(command, *words, stdin=""):
        user = [] if command == "hydra-train" else ["--user-dir", user_dir]
        return run([binaries / f"fairseq-{command}", *words, *user], cwd, stdin)

    data, save = tmp_path / "data", tmp_path / "run"
    for split in ("train", "valid", "test"):
        for language in ("de", "en"):
            (tmp_path / f"{split}.{language}").write_text("".join(f"a b {'c d e'.split()[n % 3]}\n" for n in range(8)))
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", tmp_path / split)]
    pair = ["--source-lang", "de", "--target-lang", "en"]
    fairseq("preprocess", *pair, *prefixes, "--destdir", data, "--joined-dictionary", "--workers", 1)
    assert (data / "train.de-en.de.bin").exists()

    flags = [word for key, value in MODEL.items() for word in (f"--{key.replace('_', '-')}", value)]
    common = [*pair, "--cpu", "--max-tokens", 100, "--num-workers", 0]
    training = ["--optimizer", "adam", "--lr", 0.001, "--max-update", 2, "--save-dir", save]
    fairseq("train", data, *common, "--arch", "transformer_mt", *flags, *training, "--no-epoch-checkpoints")
    path = ["--path", save / "checkpoint_last.pt"]
    fairseq("validate", data, "--task", "translation", "--cpu", "--max-tokens", 100, *path)
    generated = fairseq("generate", data, *common, *path, "--beam", 2).stdout
    assert sum(line.startswith("H-") for line in generated.splitlines()) == 8
    answered = fairseq("interactive", data, *pair, "--cpu", *path, stdin="a b c\na b d\n").stdout
    assert sum(line.startswith("H-") for line in answered.splitlines()) == 2

    groups = {
        "common": {"cpu": True, "user_dir": user_dir},
        "task": {"_name": "translation", "data": data, "source_lang": "de", "target_lang": "en"},
        "model": {"_name": "transformer_mt", **MODEL},
        "criterion": {"_name": "cross_entropy"},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "optimization": {"lr": "[0.001]", "max_update": 2},
        "dataset": {"max_tokens": 100, "num_workers": 0},
        "checkpoint": {"save_dir": tmp_path / "hydra"},
    }
    lines = ["# @package _group_"]
    for group, fields in groups.items():
        lines += [f"{group}:", *(f"  {key}: {value}" for key, value in fields.items())]
    (tmp_path / "tiny.yaml").write_text("\n".join(lines))
    where = [f"hydra.run.dir={tmp_path}/logs", *hydra]
    fairseq("hydra-train", "--config-dir", tmp_path, "--config-name", "tiny", *where)
    assert (tmp_path / "hydra" / "checkpoint_last.pt").exists()
