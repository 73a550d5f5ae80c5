import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairseq_plugins.modules.attention import MultiHeadAttention
from fairseq_plugins.modules.attention_masks import causal_mask
from fairseq_plugins.modules.embedding import tied_projection, token_embedding
from fairseq_plugins.modules.feed_forward import FeedForward
from fairseq_plugins.modules.prediction_heads import MaskedTokenHead
from fairseq_plugins.modules.residual import residual_schemes
from fairseq_plugins.modules.transformer_layer import LayerContext, TransformerLayer
from fairseq_plugins.modules.transformer_stack import TransformerStack

RESIDUALS = ["post", "pre", "deepnorm", "subln"]


def stack(residual, layers=3, dim=8, **kwargs):
    torch.manual_seed(0)
    scheme = residual_schemes(residual, layers, 0).encoder

    def inner(width):
        return nn.LayerNorm(width) if scheme.inner_norm else None

    built = [
        TransformerLayer(
            dim,
            scheme,
            MultiHeadAttention(dim, 2, gain=scheme.gain, inner_norm=inner(dim)),
            FeedForward(dim, 12, activation=F.relu, gain=scheme.gain, inner_norm=inner(12)),
            dropout=kwargs.get("dropout", 0.0),
            index=index,
        )
        for index in range(layers)
    ]
    final = nn.LayerNorm(dim) if scheme.norm_first else None
    return TransformerStack(token_embedding(10, dim, 1), built, layer_norm=final, **kwargs)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_causal_mask_hides_the_future(residual):
    model = stack(residual).eval()
    tokens = torch.tensor([[4, 5, 6, 7]])
    context = LayerContext(self_mask=causal_mask(4, 4, tokens.device))
    before = model.transform(model.embed(tokens), context).x_BTD
    tokens[0, 2] = 9
    after = model.transform(model.embed(tokens), context).x_BTD
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_changes_no_gradient(residual, dropout):
    gradients = []
    for checkpointing in (False, True):
        model = stack(residual, dropout=dropout, checkpoint_activations=checkpointing).double().train()
        torch.manual_seed(1)
        model.transform(model.embed(torch.tensor([[4, 5, 6]])), LayerContext()).x_BTD.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_states_are_embeddings_and_every_layer():
    model = stack("post").eval()
    embedded = model.embed(torch.tensor([[4, 5]]))
    output = model.transform(embedded, LayerContext(), keep_states=True)
    assert len(output.states) == 4
    assert torch.equal(output.states[0], embedded) and torch.equal(output.states[-1], output.x_BTD)


def test_auxiliary_losses_of_feed_forwards_are_collected():
    class Counting(FeedForward):
        def forward(self, x_BTD, padding_BT=None):
            return super().forward(x_BTD)[0], torch.tensor(2.0)

        def observe(self, loss):
            observed.append(loss.item())

    model, observed = stack("post"), []
    model.layers[1].feed_forward = Counting(8, 12, activation=F.relu)
    for checkpoint_activations in (False, True):
        model.checkpoint_activations = checkpoint_activations
        output = model.train().transform(model.embed(torch.tensor([[4, 5]])), LayerContext())
        output.x_BTD.sum().backward()
        assert [loss.item() for loss in output.auxiliary] == [2.0]
    assert observed == [2.0, 2.0]  # once per pass, recomputed or not
    model.eval().transform(model.embed(torch.tensor([[4, 5]])), LayerContext())
    assert len(observed) == 2


@pytest.mark.parametrize("residual, gain", [("post", 1.0), ("deepnorm", 24**-0.25)])
def test_feed_forward_starts_at_gain_times_xavier(residual, gain):
    layer = FeedForward(300, 700, activation=F.relu, gain=residual_schemes(residual, 3, 0).encoder.gain)
    for weight in (layer.fc1.weight, layer.fc2.weight):
        assert weight.std().item() == pytest.approx(gain * (2 / 1000) ** 0.5, rel=0.01)
    assert not layer.fc1.bias.any() and not layer.fc2.bias.any()


def test_tied_projection_and_head_share_the_table():
    table = token_embedding(10, 8, 1)
    assert tied_projection(table).weight is table.weight
    head = MaskedTokenHead(table, F.gelu, nn.LayerNorm)
    assert head.weight is table.weight
    assert head(torch.randn(3, 8)).shape == (3, 10)
    assert not table.weight[1].any() and table.weight[2:].std().item() == pytest.approx(8**-0.5, rel=0.2)
