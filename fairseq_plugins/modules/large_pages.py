"""New memory in large pages: on a CPU the first touch of small ones can take longer than computing."""

import ctypes
import sys
from typing import Any, Optional

import torch
from torch import Tensor

ADVICE = 14  # MADV_HUGEPAGE of Linux (man 2 madvise)
PAGE = 4096
SMALLEST = 2**22  # bytes; below, there is not even one large page for certain


def _system_call() -> Optional[Any]:
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None), "madvise", None)
    if call is not None:
        call.argtypes, call.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return call


_madvise = _system_call()


def new_empty(like: Tensor, *shape: int) -> Tensor:
    """`like.new_empty(shape)`; large ones on the CPU ask Linux for large pages, which it may ignore.

    The weight gradients of 128 experts (512 x 2048, twice) are 262,144 small pages that are new in every step, that of
    a table of 64,000 x 512 is 32,000. This is advice: where the system's transparent huge pages are set to `never`,
    pages stay small.
    """
    x = like.new_empty(shape)
    if _madvise is not None and x.device.type == "cpu" and x.nbytes >= SMALLEST and not torch.compiler.is_compiling():
        first = -(-x.data_ptr() // PAGE) * PAGE
        _madvise(first, (x.data_ptr() + x.nbytes - first) // PAGE * PAGE, ADVICE)
    return x
