"""The MoE feed-forward, token by token and without any of the package's dispatch: what the fast one must equal."""

import math

import torch
from torch.nn import functional as F


def expert(moe, number, x_D):
    """Expert `number` of `moe` on one token."""
    for sublayer in moe.experts.sublayers:
        scheme = sublayer.scheme
        if sublayer.norm is None:
            x_D = _feed_forward(sublayer, number, x_D)
            continue

        def norm(x_D, sublayer=sublayer):
            weights = sublayer.norm.weight[number], sublayer.norm.bias[number]
            return F.layer_norm(x_D, x_D.shape, *weights)

        if scheme.norm_first:
            x_D = scheme.alpha * x_D + _feed_forward(sublayer, number, norm(x_D))
        else:
            x_D = norm(scheme.alpha * x_D + _feed_forward(sublayer, number, x_D))
    return x_D


def _feed_forward(sublayer, number, x_D):
    hidden = sublayer.activation(sublayer.fc1_weight[number] @ x_D + sublayer.fc1_bias[number])
    if sublayer.inner_norm is not None:
        weights = sublayer.inner_norm.weight[number], sublayer.inner_norm.bias[number]
        hidden = F.layer_norm(hidden, hidden.shape, *weights)
    return sublayer.fc2_weight[number] @ hidden + sublayer.fc2_bias[number]


def moe_output(moe, routing, x_ND, routed_N, capacity_factor):
    """sum_k g_k E_k(x), token by token; first choices are served before second ones, earlier tokens first."""
    tokens, choices = routing.expert_NK.shape
    limit = math.inf
    if capacity_factor:
        limit = math.ceil(int(routed_N.sum()) * choices * capacity_factor / moe.count)
    given = [0] * moe.count
    output = [torch.zeros_like(x_D) for x_D in x_ND]
    for choice in range(choices):
        for token in range(tokens):
            number = int(routing.expert_NK[token, choice])
            if routed_N[token] and given[number] < limit:
                given[number] += 1
                made = expert(moe, number, x_ND[token])
                made = made - x_ND[token] if moe.own_residual else made
                output[token] = output[token] + routing.weight_NK[token, choice] * made
    return torch.stack(output) + (x_ND if moe.own_residual else 0)
