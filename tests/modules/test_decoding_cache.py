import pytest
import torch

from fairseq_plugins.modules.decoding_cache import GROWTH, DecodingCache, Recording


def fill(cache, rows, steps, layers=2, heads=3, width=4):
    """Append `steps` random steps; returns what a plain list would hold: (layer, k or v) -> (R, H, T, K)."""
    plain = {}
    for _ in range(steps):
        for layer in range(layers):
            k, v = torch.randn(rows, heads, 1, width), torch.randn(rows, heads, 1, width)
            kept = cache.append(layer, k, v)
            for which, new, all_of_them in (("k", k, kept[0]), ("v", v, kept[1])):
                before = plain.get((layer, which))
                plain[layer, which] = new if before is None else torch.cat([before, new], 2)
                assert torch.equal(all_of_them, plain[layer, which])
        cache.advance(1)
    return plain


def test_grows_beyond_its_first_capacity_and_keeps_everything():
    fill(DecodingCache(2), rows=5, steps=2 * GROWTH + 3)


def test_reordering_follows_the_rows_then_shrinks_then_goes_on():
    cache = DecodingCache(2)
    plain = fill(cache, rows=6, steps=4)
    for order in ([5, 4, 3, 2, 1, 0], [0, 0, 1, 1, 5, 5], [2, 3, 0]):
        order = torch.tensor(order)
        cache.reorder(order)
        plain = {key: value[order] for key, value in plain.items()}
        k = torch.randn(len(order), 3, 1, 4)
        for layer in range(2):
            kept_k, kept_v = cache.append(layer, k, k)
            assert torch.equal(kept_k, torch.cat([plain[layer, "k"], k], 2))
            assert torch.equal(kept_v, torch.cat([plain[layer, "v"], k], 2))


def test_memory_stays_per_sentence():
    cache = DecodingCache(1)
    fill(cache, rows=6, steps=1, layers=1)
    keys = torch.arange(3.0).reshape(3, 1, 1, 1)  # three sentences, beam 2
    cache.memory[0] = keys, -keys
    cache.memory_mask = keys > 0
    cache.reorder(torch.tensor([1, 1, 2, 3, 5, 4]))
    assert cache.memory[0][0] is keys, "moves within sentences copy nothing"
    cache.reorder(torch.tensor([1, 0, 5, 4]))  # the second sentence is done
    assert cache.memory[0][0].flatten().tolist() == [0, 2]
    assert cache.memory[0][1].flatten().tolist() == [0, -2]
    assert cache.memory_mask.flatten().tolist() == [False, True]


def test_a_hypothesis_that_leaves_its_sentence_keeps_its_memory():
    cache = DecodingCache(1)
    fill(cache, rows=6, steps=1, layers=1)
    keys = torch.arange(3.0).reshape(3, 1, 1, 1)
    cache.memory[0] = keys, keys
    cache.memory_mask = keys > 0
    cache.reorder(torch.tensor([0, 2, 3, 5]))  # as many rows as two whole sentences, but they are not
    assert cache.memory[0][0].flatten().tolist() == [0, 1, 1, 2]
    assert cache.memory_mask.flatten().tolist() == [False, True, True, True]
    cache.reorder(torch.tensor([3, 0]))
    assert cache.memory[0][0].flatten().tolist() == [2, 0]


def test_memory_of_single_rows_follows_any_order():
    cache = DecodingCache(1)
    fill(cache, rows=3, steps=1, layers=1)
    keys = torch.arange(3.0).reshape(3, 1, 1, 1)
    cache.memory[0] = keys, keys
    cache.reorder(torch.tensor([2, 0, 1]))
    assert cache.memory[0][0].flatten().tolist() == [2, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_beam_search(seed):
    """Random moves within sentences, sentences that leave, growth: always what copying everything would give."""
    generator = torch.Generator().manual_seed(seed)
    cache, beam, sentences = DecodingCache(2), 3, 4
    plain, expected = None, [0.0, 1.0, 2.0, 3.0]
    for step in range(2 * GROWTH + 5):
        rows = beam * sentences
        new = torch.randn(2, rows, 2, 1, 4, generator=generator)
        for layer in range(2):
            kept, _ = cache.append(layer, new[layer], -new[layer])
            if cache.memory[layer] is None:
                keys = torch.arange(float(sentences)).view(-1, 1, 1, 1)
                cache.memory[layer] = keys, keys
            if layer == 0:
                plain = new[0] if plain is None else torch.cat([plain, new[0]], dim=2)
                assert torch.equal(kept, plain), step
        cache.advance(1)
        leaves = step % 9 == 8 and sentences > 1
        stay = [s for s in range(sentences) if not (leaves and s == step % sentences)]
        order = torch.cat([s * beam + torch.randint(beam, (beam,), generator=generator) for s in stay])
        cache.reorder(order)
        plain, sentences = plain[order], len(stay)
        expected = [expected[s] for s in stay]
        for keys, values in cache.memory:
            assert keys.flatten().tolist() == values.flatten().tolist() == expected


def test_a_pseudo_mask_is_written_over_by_the_next_step():
    """Two places are appended, the cache counts one: the second is gone when the next step comes, also after a move."""
    cache = DecodingCache(1)
    for step in range(2 * GROWTH + 2):
        new = torch.tensor([[step, -1.0], [100 + step, -1.0]]).reshape(2, 1, 2, 1)
        kept, _ = cache.append(0, new, new)
        assert kept[0].flatten().tolist() == [*range(step + 1), -1]
        assert kept[1].flatten().tolist() == [*range(100, 101 + step), -1]
        cache.advance(1)
        if step in (3, GROWTH - 1):
            cache.reorder(torch.tensor([0, 1, 0]))
            cache.reorder(torch.tensor([2, 1]))


def test_a_recording_keeps_what_each_layer_appended():
    recording = Recording(2)
    first, second = (torch.randn(2, 1, 3, 4) for _ in range(2))
    assert recording.append(0, first, second)[0] is first
    recording.append(1, second, first)
    assert recording.memory[0][1] is second and recording.memory[1][0] is second and recording.length == 0
