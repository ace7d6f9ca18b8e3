"""Tiny models of ``transformers``, of many designs and with random weights: our attention in place of the library's."""

import pytest
import torch
import transformers
from transformers import DynamicCache, StaticCache

from workbench import catalog
from workbench.models import hugging_face
from workbench.models.attention_masks import Visible, read_mask, wanted_mask

IDS = torch.arange(1, 21).view(2, 10) * 7 % 49 + 1
PADDING = {"none": None, "right": torch.tensor([[1] * 10, [1] * 4 + [0] * 6])}
PADDING |= {"left": PADDING["right"].flip(1), "amid": torch.tensor([[1] * 10, [1] * 3 + [0] * 2 + [1] * 4 + [0]])}
LIBRARYS = ("eager", "sdpa")

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "decoder_start_token_id": 1}
TWO_STACKS = {"vocab_size": 50, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
TWO_STACKS |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, **TOKENS}
MODELS = {
    "llama": ("Llama", "ForCausalLM", SIZES),
    "mistral": ("Mistral", "ForCausalLM", {**SIZES, "sliding_window": 3}),
    "mistral, wide window": ("Mistral", "ForCausalLM", {**SIZES, "sliding_window": 300}),
    "gemma 2": ("Gemma2", "ForCausalLM", {**SIZES, "head_dim": 8}),
    "gpt-oss": ("GptOss", "ForCausalLM", {**SIZES, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "gpt2": ("GPT2", "LMHeadModel", {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bert": ("Bert", "Model", {**SIZES, "num_key_value_heads": 4}),
    "modernbert": ("ModernBert", "Model", {**SIZES, "num_hidden_layers": 4, "local_attention": 6, "cls_token_id": 1}),
    "bart": ("Bart", "ForConditionalGeneration", {**TWO_STACKS, "forced_eos_token_id": None}),
    "t5": (
        "T5",
        "ForConditionalGeneration",
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
    "narrow values": (
        "DeepseekV3",
        "ForCausalLM",
        {**SIZES, "moe_intermediate_size": 16, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1}
        | {"topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
        | {"v_head_dim": 6, "num_key_value_heads": 4, "num_hidden_layers": 1, "first_k_dense_replace": 1},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    hugging_face.register_attention()


def tiny(name):
    family, head, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**TOKENS, **settings})
    return getattr(transformers, family + head)(config).eval()


def ours(model, method="flash_attention_2"):
    model.set_attn_implementation(hugging_face.interface_name(method))
    return model


def theirs(model, name):
    model.set_attn_implementation(name)
    return model


@torch.no_grad()
def output(model, **inputs):
    return model(**inputs)[0]


def same(found, expected, where=None):
    where = torch.ones(found.shape[:2], dtype=torch.bool) if where is None else where.bool()
    torch.testing.assert_close(found[where], expected[where], rtol=1e-5, atol=2e-6)


# --- the library's own numbers


@pytest.mark.parametrize("library", LIBRARYS)
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize(
    "name", ["llama", "mistral", "mistral, wide window", "gpt2", "bert", "modernbert", "narrow values"]
)
def test_one_stack(name, padding, library):
    model, mask = tiny(name), PADDING[padding]
    if padding == "amid" and name in ("mistral", "modernbert"):
        with pytest.raises(ValueError, match="Padding between a row's tokens together with a window"):
            output(ours(model), input_ids=IDS, attention_mask=mask)
        return
    expected = output(theirs(model, library), input_ids=IDS, attention_mask=mask)
    same(output(ours(model), input_ids=IDS, attention_mask=mask), expected, mask)


@pytest.mark.parametrize("library", LIBRARYS)
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("queries", [1, 6, 10])
def test_the_padding_of_an_encoder_belongs_to_the_keys_of_its_decoder(queries, padding, library):
    """As many queries as keys too: nothing but the module tells that they are not the same tokens."""
    model = tiny("bart")
    inputs = {"input_ids": IDS, "attention_mask": PADDING[padding], "decoder_input_ids": IDS.flip(0)[:, :queries]}
    same(output(ours(model), **inputs), output(theirs(model, library), **inputs))


@pytest.mark.parametrize("queries", [6, 10])
def test_cross_attention_of_a_decoder_with_padding_of_its_own(queries):
    family, head, settings = MODELS["gpt2"]
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings, add_cross_attention=True)).eval()
    own = PADDING["left"][:, -queries:]
    inputs = {"input_ids": IDS[:, :queries], "attention_mask": own, "encoder_hidden_states": torch.randn(2, 10, 32)}
    inputs["encoder_attention_mask"] = PADDING["right"]
    same(output(ours(model), **inputs), output(theirs(model, "sdpa"), **inputs), own)


def test_an_image_has_no_mask():
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = transformers.ViTModel(transformers.ViTConfig(**settings, image_size=8, patch_size=4)).eval()
    images = torch.randn(2, 3, 8, 8)
    same(output(ours(model), pixel_values=images), output(theirs(model, "eager"), pixel_values=images))


def test_gradients_flow_through_a_padded_batch():
    found = {}
    for name in ("sdpa", hugging_face.interface_name("flash_attention_2")):
        model = theirs(tiny("llama"), name)
        mask = PADDING["left"]
        model(input_ids=IDS, attention_mask=mask).logits[mask.bool()].square().mean().backward()
        found[name] = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(*found.values(), rtol=1e-4, atol=1e-7)


def test_bfloat16_under_autocast():
    model, inputs = tiny("llama"), {"input_ids": IDS, "attention_mask": PADDING["left"]}
    exact = output(theirs(model, "sdpa"), **inputs)[PADDING["left"].bool()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = (output(each, **inputs).float()[PADDING["left"].bool()] for each in (model, ours(model)))
    assert (found - exact).norm() <= 2 * (expected - exact).norm()


def test_autocast_takes_what_pytorchs_attention_takes():
    """Positions may leave query and key in float32 beside a value that autocast has made bfloat16."""
    query, key, value = torch.randn(3, 2, 4, 10, 8)
    ours = hugging_face.adapter(catalog.method("flash_attention_2"))
    theirs = transformers.AttentionInterface()["sdpa"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for mask, where in ((None, slice(None)), (PADDING["right"][:, None, None].bool(), PADDING["right"].bool())):
            found, expected = (
                attend(torch.nn.Module(), query, key, value.bfloat16(), mask, is_causal=False)[0]
                for attend in (ours, theirs)
            )
            assert found.dtype == expected.dtype == torch.bfloat16
            torch.testing.assert_close(found[where], expected[where], rtol=2**-7, atol=2**-7)


# --- caches


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "bart"])
def test_generated_tokens(name, cache, padding):
    model, mask = tiny(name), PADDING[padding]
    mask = torch.ones_like(IDS) if mask is None else mask
    settings = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "cache_implementation": cache}
    expected = theirs(model, "sdpa").generate(IDS, **settings)
    assert torch.equal(ours(model).generate(IDS, **settings), expected)


@pytest.mark.parametrize("make", [StaticCache, DynamicCache])
@torch.no_grad()
def test_pieces_through_a_cache_equal_the_whole(make):
    """A prefill, several tokens behind it, one token: the empty slots of a static cache are not attended to."""
    model = ours(tiny("llama"))
    cache = make(config=model.config, **({"max_cache_len": 32} if make is StaticCache else {}))
    whole = torch.cat((IDS, IDS.flip(1)[:, :5]), dim=1)
    pieces = [model(piece, past_key_values=cache).logits for piece in whole.split((10, 4, 1), dim=1)]
    same(torch.cat(pieces, dim=1), output(theirs(model, "eager"), input_ids=whole))


# --- masks


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_mask_that_a_user_wrote_out(padding):
    model, mask = tiny("llama"), PADDING[padding]
    pairs = torch.ones(10, 10, dtype=torch.bool).tril() & mask[:, None, None].bool()
    added = torch.where(pairs, 0.0, torch.finfo(torch.float32).min)
    expected = output(theirs(model, "sdpa"), input_ids=IDS, attention_mask=pairs)
    for given in (pairs, added):
        same(output(ours(model), input_ids=IDS, attention_mask=given), expected, mask)


RANDOM = torch.rand(2, 1, 10, 10, generator=torch.Generator().manual_seed(0))
CAUSAL = torch.ones(2, 4, 10, 10).tril().bool()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (RANDOM, "adds to the scores"),
        (RANDOM > 0.3, "asks for another mask"),
        (CAUSAL & (torch.arange(4) > 0)[:, None, None], "one mask for all heads"),
        (CAUSAL[..., :9], "for 10 keys, not"),
    ],
)
def test_masks_that_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        output(ours(tiny("llama")), input_ids=IDS, attention_mask=mask)


def test_packed_sequences_are_refused():
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="asks for another mask"):
        output(ours(tiny("llama")), input_ids=IDS, position_ids=positions, use_cache=False)


@pytest.mark.parametrize("queries", [1, 2, 5])
@pytest.mark.parametrize("keys", [5, 9])
@pytest.mark.parametrize("left", [None, 0, 2])
@pytest.mark.parametrize("right", [0, 1, None])
def test_a_window_written_out_is_read_back(queries, keys, left, right):
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    seen &= (distance <= right) if right is not None else True
    seen &= (distance >= -left) if left is not None else True
    visible = read_mask(seen.expand(2, 1, -1, -1), queries, keys, is_causal=right == 0)
    again = torch.arange(visible.keys) - torch.arange(queries)[:, None] - (visible.keys - queries)
    pairs = torch.ones(queries, visible.keys, dtype=torch.bool) if visible.real is None else visible.real[:1]
    pairs = pairs & (again <= 0) if visible.causal else pairs
    pairs = pairs & (again <= visible.right) if visible.right is not None else pairs
    pairs = pairs & (again >= -visible.left) if visible.left is not None else pairs
    found = torch.zeros_like(seen)
    found[:, : visible.keys] = pairs
    assert torch.equal(found, seen)
    assert visible.causal == (right == 0) or queries == 1


def test_what_is_asked_of_the_library_is_as_little_as_says_it():
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    def wanted(function, queries, keys, offset=0, padding=None):
        sizes = {"batch_size": 2, "q_length": queries, "kv_length": keys, "q_offset": offset}
        return wanted_mask(mask_function=function, attention_mask=padding, **sizes)

    assert wanted(causal_mask_function, 5, 5) is wanted(bidirectional_mask_function, 3, 7) is None
    assert wanted(causal_mask_function, 1, 6, offset=5) is None
    assert wanted(causal_mask_function, 1, 32, offset=torch.tensor(5)).shape == (2, 6)
    assert wanted(causal_mask_function, 3, 8, offset=5).shape == (2, 8)
    padding = PADDING["right"].bool()
    assert torch.equal(wanted(causal_mask_function, 10, 10, padding=padding), padding)
    assert wanted(bidirectional_mask_function, 4, 10, padding=padding).shape == (2, 1, 1, 10)


def test_without_a_mask_is_causal_means_what_it_means_to_the_library():
    assert read_mask(None, 4, 4, True) == Visible(4, causal=True)
    assert read_mask(None, 4, 9, True) == Visible(4, causal=True)  # the first queries; the other keys are empty
    assert read_mask(None, 1, 9, True) == Visible(9, causal=True)
    assert read_mask(None, 4, 9, False) == Visible(9)
    attend = hugging_face.adapter(catalog.method("softmax_attention"))
    query, key, value = torch.randn(3, 1, 2, 6, 8)
    absent, _ = attend(torch.nn.Module(), query, key, value, None)
    expected, _ = transformers.AttentionInterface()["sdpa"](torch.nn.Module(), query, key, value, None)
    torch.testing.assert_close(absent, expected)


# --- refused by name


@pytest.mark.parametrize(("name", "keyword"), [("t5", "position_bias"), ("gemma 2", "softcap"), ("gpt-oss", "s_aux")])
def test_what_a_model_asks_of_its_attention_is_not_dropped(name, keyword):
    inputs = {"decoder_input_ids": IDS} if name == "t5" else {}
    with pytest.raises(ValueError, match=f"flash_attention_2 cannot honour {keyword}, which this model hands"):
        output(ours(tiny(name)), input_ids=IDS, **inputs)


@pytest.mark.parametrize("keyword", ["indices", "cache", "block_indices", "cu_seq_lens_q", "max_length_q", "anything"])
def test_unknown_keywords_are_refused_where_they_are_set(keyword):
    attend = hugging_face.adapter(catalog.method("softmax_attention"))
    query = torch.randn(1, 2, 6, 8)
    with pytest.raises(ValueError, match=f"softmax_attention cannot honour {keyword}"):
        attend(torch.nn.Module(), query, query, query, None, **{keyword: torch.ones(1)})
    attend(torch.nn.Module(), query, query, query, None, position_ids=torch.arange(6), **{keyword: None})


def test_attention_weights_are_not_silently_missing():
    with pytest.raises(ValueError, match="cannot honour output_attentions"):
        output(ours(tiny("bert")), input_ids=IDS, output_attentions=True)


def test_dropout_and_windows_are_refused():
    attend = hugging_face.adapter(catalog.method("softmax_attention"))
    query = torch.randn(1, 2, 6, 8)
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        attend(torch.nn.Module(), query, query, query, None, dropout=0.1)
    with pytest.raises(ValueError, match="no mask says which keys it hides"):
        attend(torch.nn.Module(), query, query, query, None, sliding_window=3)
    with pytest.raises(ValueError, match="sinkhorn_attention has no windows"):
        output(ours(tiny("modernbert"), "sinkhorn_attention"), input_ids=IDS)


@pytest.mark.parametrize("method", ["sinkhorn_attention", "norm_softmax_attention"])
def test_padding_of_an_encoder_is_cut_from_its_queries_too(method):
    """A method may let queries act on each other: what is no token must not be among them."""
    encoder = ours(tiny("bart").model.encoder, method)
    together = output(encoder, input_ids=IDS, attention_mask=PADDING["right"])
    same(together[1:, :4], output(encoder, input_ids=IDS[1:, :4]))
