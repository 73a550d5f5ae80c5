import sys
from pathlib import Path

import pytest
import torch

from fairseq_plugins.modules.large_pages import PAGE, SMALLEST, new_empty

SMAPS = Path("/proc/self/smaps")


def flags(address):
    """The kernel's flags of the mapping that holds an address (man 5 proc, VmFlags); hg: large pages were asked for."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return rest.split()
    raise AssertionError("no such mapping")


def test_like_new_empty():
    like = torch.zeros(2, dtype=torch.float64)
    for shape in ((0, 3), (5,), (SMALLEST // 8, 2)):
        x = new_empty(like, *shape)
        assert x.shape == shape and x.dtype == torch.float64 and x.is_contiguous()
        x.fill_(1.0)  # all of it is ours to write
        assert bool((x == 1).all())


@pytest.mark.skipif(not sys.platform.startswith("linux") or not SMAPS.exists(), reason="a call of Linux")
def test_only_large_tensors_ask():
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no large pages")
    large = new_empty(torch.zeros(1), 20 * SMALLEST // 4)  # so large that it has a mapping of its own
    assert "hg" in flags(large.data_ptr() + large.nbytes // 2)
    plain = torch.zeros(1).new_empty(20 * SMALLEST // 4)
    assert "hg" not in flags(plain.data_ptr() + plain.nbytes - 2 * PAGE)
