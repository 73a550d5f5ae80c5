"""`fairseq-train` that records what it did, and can die of `kill -9` at a chosen moment.

    python recorded_train.py RECORD DEATH WORDS OF fairseq-train

RECORD gets a JSON line for each update: its number, a hash of its batches, its loss to the last bit. DEATH is ``never``
or one of these, with a number N counted in this process but for updates:

update:N    when update N is done
write:N     when half of the N-th checkpoint is written
copy:N      when half of a checkpoint is copied over another name
rename:N    just before a whole file gets its name
memory:N    no kill: update N asks for more memory than there is
nan:N       no kill: a weight is NaN before update N
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from typing import Any, Callable

import torch
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main


def main() -> None:
    record, death = sys.argv[1:3]
    moment, _, number = death.partition(":")
    sys.argv[1:3] = []
    with open(record, "a") as out:
        record_updates(out, moment, int(number or 0))
        if moment in DEATHS:
            owner, name, dying = DEATHS[moment]
            setattr(owner, name, counted(getattr(owner, name), dying, int(number)))
        cli_main()


def record_updates(out: Any, moment: str, number: int) -> None:
    train = Trainer.train_step

    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        batch = hashlib.sha256()
        for sample in samples:
            add(batch, sample)
        now = moment if self.get_num_updates() + 1 == number else ""
        if now == "nan":
            next(self.model.parameters()).data.fill_(float("nan"))
        if now == "memory":
            self.task.train_step = lambda **_: torch.empty(1 << 50)
        output = train(self, samples, raise_oom)
        line = {"update": self.get_num_updates(), "batch": batch.hexdigest(), "loss": float(output["loss"]).hex()}
        print(json.dumps(line), file=out, flush=True)
        if now == "update":
            die()
        return output

    Trainer.train_step = train_step


def add(digest: Any, value: Any) -> None:
    """Everything in a batch, in the order of its names."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for one in value:
            add(digest, one)
    elif torch.is_tensor(value):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def counted(stock: Callable, dying: Callable, number: int) -> Callable:
    """`stock`; the `number`-th call for a checkpoint is `dying`."""
    calls = 0

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += any(isinstance(word, str) and word.endswith(".pt.tmp") for word in args)
        if calls == number:
            dying(stock, *args)
        return stock(*args, **kwargs)

    return called


def half_a_file(stock: Callable, source: Any, path: str) -> None:
    stock(source, path)
    with open(path, "r+b") as written:
        written.truncate(os.path.getsize(path) // 2)
    die()


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


DEATHS = {
    "write": (torch, "save", half_a_file),
    "copy": (shutil, "copyfile", half_a_file),
    "rename": (os, "replace", die),
}

if __name__ == "__main__":
    main()
