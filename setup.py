"""Installation: torch first, then ``pip install --no-build-isolation .`` (scripts/_setup.sh does both)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "fairseq_plugins/__init__.py").read_text(), re.M).group(1)

setup(
    name="fairseq_plugins",
    version=VERSION,
    description="Deep multilingual text Transformers for fairseq on a current Python",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    # 3.11: the engine exists for it and official fairseq does not import on it. 3.14: the engine is untested there.
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["fairseq_plugins", "fairseq_plugins.*"]),
    package_data={"": ["*.yaml", "*.json", "*.txt", "*.tsv", "*.html", "*.css", "*.js"]},
    install_requires=[
        "torch>=2.6",  # weights_only is the default of torch.load from here on; compat.py counts on it
        "fairseq-fixed==0.12.3.1",  # the engine: fairseq that imports on Python >= 3.11, with the stock commands
        "sentencepiece>=0.2",  # subwords of opus100 prepare and evaluate
        "sacrebleu>=2.4",  # BLEU and chrF with their signatures; the engine asks for any version, even without chrF++
    ],
    extras_require={
        "ctranslate2": ["ctranslate2>=4.3"],  # export --to ctranslate2: translation on CPU, several times faster
        "langid": ["py3langid>=0.4"],  # opus100 evaluate: off-target shares; the package holds its model
        "mecab": ["sacrebleu[ja,ko]"],  # opus100 evaluate: words of Japanese and Korean
        "huggingface": ["safetensors"],  # --init-encoder, export --to huggingface: how its folders hold weights
        "parquet": ["pyarrow"],  # opus100 download: the Hugging Face files
        "tensorboard": ["tensorboardX"],  # fairseq-train --tensorboard-logdir
        "test": [
            *("pytest", "pyarrow", "ctranslate2>=4.3"),
            "py3langid>=0.4",
            *("safetensors", "transformers>=4.40"),  # its XLM-R has the same hidden states as ours
            "hypothesis",  # draws the bad input of tests/system/test_hostile_*.py, the same every time
            *("ruff", "mypy"),  # tests/test_style.py runs them
            "tensorboardX",
            "selenium>=4.11",  # drives Chromium over the report; where there is none, its tests skip
            "pytest-xdist",  # the suite on all cores: most of it waits for the engine's commands
        ],
    },
    entry_points={
        "console_scripts": [
            "fairseq-plugins=fairseq_plugins.__main__:main",
            "fairseq-opus100=fairseq_plugins.opus100.__main__:main",
        ]
    },
)
