"""--user-dir as a path and as a bare name, for a checkout and for an installed wheel, under every stock command."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, succeeded

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a clean copy of the sources, as scripts/_setup.sh builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    shutil.copytree(
        REPOSITORY / "fairseq_plugins", folder / "fairseq_plugins", ignore=shutil.ignore_patterns("__pycache__")
    )
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    run([sys.executable, "-m", "pip", "wheel", *offline, "-w", folder, folder], folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installation(wheel, tmp_path_factory):
    """The bin folder of an environment that holds the engine and the wheel in one site-packages, as a user's does.

    A bare name is looked up beside the engine, so the engine is copied (by hard links); the rest is borrowed.
    """
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    ours, theirs = Path(sysconfig.get_path("purelib")), next(environment.glob("lib/python*/site-packages"))
    (theirs / "borrowed.pth").write_text(f"{ours}\n")
    for package in ("fairseq", "fairseq_cli"):
        shutil.copytree(ours / package, theirs / package, copy_function=link_or_copy)
    for script in Path(sys.executable).parent.glob("fairseq-*"):
        copy = environment / "bin" / script.name
        copy.write_text(f"#!{environment}/bin/python\n" + script.read_text().split("\n", 1)[1])
        copy.chmod(0o755)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    run([*pip, "install", "--no-deps", "--no-index", "--force-reinstall", wheel], environment)
    return environment / "bin"


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def run(words, cwd, stdin=""):
    """Run a command as a user would: with nothing of this checkout in the environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    words = [str(word) for word in words]
    return succeeded(
        subprocess.run(words, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    )


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
