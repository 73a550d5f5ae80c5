"""Functions that tests send to worker processes, in a file that imports next to nothing."""

import os
import signal

from fairseq_plugins._verbs import UserError

prepared = []


def prepare(value):
    prepared.append(value)


def refuse_to_prepare(kind, *words):
    raise kind(*words)


def square(job, report):
    report(1)
    return job * job + sum(prepared)


def kill_myself(job, report):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(job, report):
    raise UserError(f"job {job} is bad")
