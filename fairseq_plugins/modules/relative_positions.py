"""T5's relative positions: a learned bias on attention scores for each bucket of distances and each head."""

from typing import List, Optional

import torch
from torch import Tensor, nn

# B batch, T queries, S keys, H heads


class RelativePositionBias(nn.Embedding):
    """One table for all layers of a stack (Raffel et al. 2020, arXiv 1910.10683, Section 2.1).

    Half of the buckets hold one distance each, the others grow with the logarithm of the distance up to
    `max_distance`, beyond which all share the last. Where queries look both ways each direction has half of them.

    T5 does not divide scores by the square root of the head's width, and starts its query weights so much smaller
    instead. Here scores are divided as always, weights start as everywhere in this package, and the bias is added
    after the division. The table starts as T5's, from N(0, 1 / dim).

    Args:
        buckets: number of buckets, a multiple of 4.
        heads: number of attention heads H.
        max_distance: in tokens; must be above buckets / 2.
        bidirectional: whether queries also look at keys after them (an encoder).
        dim: model dimension, of which the start depends.

    Raises:
        ValueError: buckets or max_distance out of range.
    """

    starts: Tensor

    def __init__(self, buckets: int, heads: int, *, max_distance: int, bidirectional: bool, dim: int):
        if buckets < 4 or buckets % 4:
            raise ValueError(f"{buckets} buckets of relative positions must be a multiple of 4")
        if max_distance <= buckets // 2:
            raise ValueError(f"a distance of at most {max_distance} must be above half of the {buckets} buckets")
        super().__init__(buckets, heads)
        self.bidirectional = bidirectional
        starts = _starts(buckets // 2 if bidirectional else buckets, max_distance)
        self.register_buffer("starts", torch.tensor(starts), persistent=False)
        nn.init.normal_(self.weight, std=dim**-0.5)

    def buckets(self, distances: Tensor) -> Tensor:
        """Bucket of each distance, key position - query position: long, of any shape.

        The first half is for keys before their query and the query itself, the second for keys after it.
        """
        if not self.bidirectional:
            return torch.bucketize(distances.neg().clamp(min=0), self.starts, right=True)
        after = (distances > 0) * (self.num_embeddings // 2)
        return torch.bucketize(distances.abs(), self.starts, right=True) + after

    def forward(self, positions_BT: Tensor, keys_BS: Optional[Tensor] = None) -> Tensor:
        """Bias (B, H, T, S) of positions given as (B, T) or (1, T), long; several tokens may share one.

        `keys_BS` are those of the keys, where they are not those of the queries.
        """
        keys_BS = positions_BT if keys_BS is None else keys_BS
        return super().forward(self.buckets(keys_BS[:, None, :] - positions_BT[:, :, None])).permute(0, 3, 1, 2)

    def of_line(self, queries: int, keys: int) -> Tensor:
        """Bias (1, H, T, S) of tokens that stand in line, the last query beside the last key.

        The same as `forward` of 0, 1, ..., but a distance is looked up once, not for each pair that has it.
        """
        distances = torch.arange(1 - keys, queries, device=self.weight.device)
        by_distance_HN = super().forward(self.buckets(distances)).t()
        return by_distance_HN.unfold(1, keys, 1).flip(1)[None]  # the last query's distances start first


def _starts(buckets: int, max_distance: int) -> List[int]:
    """The smallest distance of each bucket but the first, for one direction.

    Half of them, E, are exact; from there E + floor(log(n / E) / log(max / E) * (buckets - E)), in whole numbers: the
    logarithm's rounding would put 2^k on the wrong side.
    """
    exact = buckets // 2
    growing = buckets - exact
    starts = list(range(1, exact + 1))
    n = exact
    for step in range(1, growing):
        while n**growing < exact ** (growing - step) * max_distance**step:
            n += 1
        starts.append(n)
    return starts
