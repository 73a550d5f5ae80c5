"""The encoder of an xlm_t that was started from someone's model has that model's hidden states (float64)."""

import json
import sys

import pytest
import torch

from tests.models_support import sentences
from tests.pretrained_support import (
    DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    data_dictionary,
    old_names,
    random_roberta,
    roberta_words,
    save_roberta,
    xlm_t,
)

WORDS = data_dictionary()


def same_hidden_states(model, theirs, their_words, atol):
    """Compare on sentences of the words that both know; `theirs` maps tokens (B, T) to hidden states (B, T, D)."""
    ours_BT = sentences(WORDS, [7, 4, 20], left_pad=True)
    ours_BT[ours_BT >= WORDS.index("__de__")] = WORDS.index("w3")  # tags are ours alone
    theirs_BT = ours_BT.clone().apply_(lambda row: their_words.index(WORDS[row]))
    found = model.encoder(ours_BT)["encoder_out"][0].transpose(0, 1)
    real = ours_BT.ne(WORDS.pad())
    torch.testing.assert_close(found[real], theirs(theirs_BT)[real], atol=atol, rtol=0)


@pytest.mark.parametrize("arch", ["roberta", "xlmr_of_its_time", "transformer_mlm_base"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_fairseq(arch, as_folder, tmp_path):
    words = roberta_words()
    old = arch == "xlmr_of_its_time"
    arch = "roberta" if old else arch
    roberta = random_roberta(words, arch)
    state = roberta.state_dict()
    path = save_roberta(tmp_path, old_names(state) if old else state, arch=arch)
    model = xlm_t(WORDS, "--init-encoder", str(path.parent if as_folder else path))
    model.start_training()
    same_hidden_states(model, lambda tokens: roberta(tokens, features_only=True)[0], words, atol=1e-9)


@pytest.mark.parametrize("kind", ["XLMRobertaModel", "XLMRobertaForMaskedLM"])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_hugging_face(kind, layout, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # not for text, and one of another torch breaks the import
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    words = roberta_words()
    config = transformers.XLMRobertaConfig(
        vocab_size=len(words), hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=HIDDEN, max_position_embeddings=POSITIONS + 2, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(3)
    theirs = getattr(transformers, kind)(config).double().eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    if layout == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    vocabulary = [[symbol, 0.0] for symbol in words.symbols[:-1]]
    mask = [{"id": len(words) - 1, "content": "<mask>"}]
    tokenizer = {"model": {"type": "Unigram", "vocab": vocabulary}, "added_tokens": mask}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = xlm_t(WORDS, "--init-encoder", str(tmp_path))
    model.start_training()
    body = getattr(theirs, "roberta", theirs)

    def hidden_states(tokens):
        return body(tokens, attention_mask=tokens.ne(1).long()).last_hidden_state

    same_hidden_states(model, hidden_states, words, atol=1e-6)  # the engine's gelu computes in float32
