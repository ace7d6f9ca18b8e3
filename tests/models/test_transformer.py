import dataclasses

import pytest
import torch

from workbench import catalog
from workbench.models.transformer import Transformer, TransformerConfig, chosen

SMALL = TransformerConfig(vocabulary=17, width=24, depth=2, heads=4, tokens=32)
ATTENTION = sorted(catalog.methods("attention"))
ACTIVATIONS = sorted(catalog.methods("activation"))


def build(**changes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(dataclasses.replace(SMALL, **changes)).double()


def some_tokens(batch=2, length=13):
    return torch.randint(17, (batch, length))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pieces", [(13,), (1,) * 13, (5, 8), (12, 1), (1, 7, 2, 3)])
def test_piece_by_piece_equals_all_at_once(attention, pieces):
    model, tokens = build(attention=attention, kv_heads=2), some_tokens()
    cache, logits = model.empty_cache(batch=2), []
    for piece in tokens.split(pieces, dim=1):
        part, cache = model(piece, cache)
        logits.append(part)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens), rtol=1e-10, atol=1e-10)
    assert cache[0][0].shape == (2, 2, 13, 6)


def test_a_cache_is_a_value_and_can_be_continued_twice():
    model, tokens = build(), some_tokens(length=6)
    _, cache = model(tokens, model.empty_cache(2))
    before = [each.clone() for layer in cache for each in layer]
    one, other = tokens[:, :1], tokens[:, 1:2]
    first, _ = model(one, cache)
    model(other, cache)
    again, _ = model(one, cache)
    assert torch.equal(first, again)
    assert all(map(torch.equal, before, [each for layer in cache for each in layer]))


@pytest.mark.parametrize("attention", ATTENTION)
def test_causal_does_not_look_ahead_and_an_encoder_does(attention):
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 17
    causal, encoder = build(attention=attention), build(attention=attention, is_causal=False)
    assert torch.equal(causal(tokens)[:, :7], causal(changed)[:, :7])
    assert not torch.equal(causal(tokens)[:, 7:], causal(changed)[:, 7:])
    assert not torch.allclose(encoder(tokens)[:, :7], encoder(changed)[:, :7])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_reference_and_fast_read_the_same_weights(kv_heads):
    tokens = some_tokens()
    outputs = [
        build(attention="flash_attention_2", kv_heads=kv_heads, implementation=name)(tokens)
        for name in ("reference", "fast")
    ]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


def test_attention_options_reach_the_method():
    tokens = some_tokens()
    wide = build(depth=1, attention_options={"window_left": 31})
    narrow = build(depth=1, attention_options={"window_left": 2})
    torch.testing.assert_close(build(depth=1)(tokens), wide(tokens))
    assert torch.allclose(wide(tokens)[:, :3], narrow(tokens)[:, :3])
    assert not torch.allclose(wide(tokens)[:, 3:], narrow(tokens)[:, 3:])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalisation", ["layer_norm", "rms_norm"])
def test_every_activation_learns(activation, normalisation):
    model = build(activation=activation, normalisation=normalisation).float()
    tokens = some_tokens(4)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_gated_and_plain_activations_have_equal_parameters():
    counts = {name: sum(each.numel() for each in build(activation=name, width=96).parameters()) for name in ACTIVATIONS}
    assert counts["swiglu"] == counts["gelu"]
    norms = 2 * 2 * build(activation="normalised_gate", width=96).config.feed_forward_hidden
    assert counts["normalised_gate"] == counts["gelu"] + norms
    for name in set(ACTIVATIONS) - {"normalised_gate"}:  # the polynomial ones add a few scalars a layer
        assert 0 <= counts[name] - counts["gelu"] <= 2 * 5


def test_hidden_is_taken_as_it_is_when_given():
    assert build(activation="swiglu", hidden=50).config.feed_forward_hidden == 50
    assert build(activation="gelu").config.feed_forward_hidden == 4 * 24


def test_state_dict_round_trip():
    model, tokens = build(activation="poly_norm"), some_tokens()
    torch.manual_seed(1)
    other = Transformer(model.config).double()
    assert not torch.allclose(model(tokens), other(tokens))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens), other(tokens))


def test_a_cached_and_an_uncached_model_write_the_same_text():
    prompt = some_tokens(length=3)
    cached = torch.stack(list(build().generate(prompt, 8)), dim=1)
    anew = torch.stack(list(build(cache="none").generate(prompt, 8)), dim=1)
    assert cached.shape == (2, 8)
    assert torch.equal(cached, anew)


def test_sampling_follows_its_generator():
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.stack(list(build().generate(some, 8, temperature=1.0, generator=generator)))

    some = some_tokens(length=3)
    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_generation_stops_when_nobody_reads_on():
    model = build()
    steps = model.generate(some_tokens(length=3), 1_000_000)
    next(steps)
    steps.close()


def test_torch_compile():
    torch._dynamo.reset()
    model, tokens = build(depth=1, attention="flash_attention_2", activation="poly_norm").float(), some_tokens()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), model(tokens))


def test_positions_matter():
    tokens = torch.full((1, 5), 3)
    logits = build(is_causal=False)(tokens)
    assert not torch.allclose(logits[:, 0], logits[:, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, r"heads = 4 must divide width = 30"),
        ({"kv_heads": 3}, r"kv_heads = 3 must divide heads = 4"),
        ({"depth": 0}, r"depth = 0 is not allowed"),
        ({"vocabulary": 2.5}, r"vocabulary = 2.5"),
        ({"tokens": True}, r"tokens = True"),
        ({"normalisation": "batch_norm"}, r"'layer_norm' or 'rms_norm'"),
        ({"cache": "paged"}, r"'key_value' or 'none'"),
        ({"attention": "gelu"}, r"attention = 'gelu' is not allowed: choose .*flash_attention_2"),
        ({"activation": "softmax_attention"}, r"activation = 'softmax_attention'.*gelu"),
        ({"attention_options": {"window_left": -1}}, r"window_left = -1"),
        ({"implementation": "sdpa_flash"}, r"has no implementation 'sdpa_flash': choose 'auto'"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_unknown_attention_option():
    with pytest.raises(TypeError, match="no option 'wndow'"):
        dataclasses.replace(SMALL, attention_options={"wndow": 3})


def test_bad_tokens():
    model = build()
    for shape in ((2, 0), (2, 33), (5,)):
        with pytest.raises(ValueError, match="1 to 32 in all"):
            model(torch.zeros(shape, dtype=torch.long))
    _, cache = model(some_tokens(length=30), model.empty_cache(2))
    with pytest.raises(ValueError, match="after 30 in the cache"):
        model(some_tokens(length=3), cache)


def test_who_has_no_cache_says_so():
    with pytest.raises(ValueError, match="configure 'key_value'"):
        build(cache="none").empty_cache(1)
    with pytest.raises(ValueError, match="encoder"):
        build(is_causal=False).empty_cache(1)
    with pytest.raises(ValueError, match="encoder cannot generate"):
        next(build(is_causal=False).generate(some_tokens(), 1))


def test_chosen_knows_both_toggles():
    assert chosen("relu", "activation").name == "relu"
