"""Commands as a user gives them who has installed the package."""

import os
import subprocess

from tests.helpers import succeeded


def run(words, cwd, stdin=""):
    """Run a command as a user would: with nothing of this checkout in the environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    words = [str(word) for word in words]
    return succeeded(
        subprocess.run(words, input=stdin, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    )
