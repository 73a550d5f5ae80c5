import subprocess
import sys

import fairseq_plugins
from tests.helpers import REPOSITORY

fairseq_plugins.register()
SCRIPT = REPOSITORY / "scripts" / "benchmarks" / "student_speed.py"


def test_shapes_are_those_of_the_presets(module):
    from fairseq_plugins.models.transformer_mlm import PRESETS

    shapes = {name: shape for of in module("student_speed").TEACHERS.values() for name, shape in of.items()}
    presets = {name.removeprefix("minilm_"): of for name, of in PRESETS.items() if name.startswith("minilm_")}
    presets["12x768"] = PRESETS["transformer_mlm_base"]
    assert len(presets) == 6
    for name, preset in presets.items():
        kept = tuple(preset[f"encoder_{key}"] for key in ("layers", "embed_dim", "attention_heads"))
        assert shapes[name][:3] == kept and preset["encoder_ffn_embed_dim"] == 4 * preset["encoder_embed_dim"]


def test_the_whole_benchmark_in_a_tiny_size(tmp_path):
    out = tmp_path / "results.md"
    words = "--rounds 1 --batch 1 --length 4 --only 3x384 3x128 --out".split()
    done = subprocess.run([sys.executable, str(SCRIPT), *words, str(out)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.read_text().splitlines()]
    assert [row[0] for row in rows if len(row) == 4][2:] == ["12x768", "3x384", "12x128", "3x128"]
    assert {row[0]: row[3] for row in rows if len(row) == 4}["3x384"] == "10.1"
