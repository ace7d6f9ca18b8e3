import pytest
import torch

from workbench.models import vit
from workbench.models.swapping import swapped
from workbench.models.transformer import needs_other_weights
from workbench.tasks import images


@pytest.fixture(scope="module")
def model():
    return vit.pretrained()


@pytest.fixture(scope="module")
def data():
    return images.load("digits")


def accuracy(model, data):
    with torch.no_grad():
        return (model(data.test).argmax(1) == data.test_labels).float().mean().item()


def test_nothing_swapped_is_the_same_function(model, data):
    torch.testing.assert_close(swapped(model)(data.test[:5]), model(data.test[:5]))
    flash = swapped(model, mixer="flash_attention_2")
    torch.testing.assert_close(flash(data.test[:5]), model(data.test[:5]), rtol=1e-4, atol=1e-4)


def test_layers_before_the_first_swapped_one_are_untouched(model, data):
    before = model.inspect(data.test[:1]).maps
    options = {"mixer": "sinkhorn_attention", "mixer_options": {"iterations": 41}}
    after = swapped(model, layers=(2,), **options).inspect(data.test[:1]).maps
    torch.testing.assert_close(after[:2], before[:2])
    off = (after.sum(-2) - 1).abs().amax((1, 2))
    assert off[2] < 0.05 < off[[0, 1, 3]].min()
    everywhere = swapped(model, layers=range(4), **options)
    torch.testing.assert_close(everywhere(data.test[:3]), swapped(model, **options)(data.test[:3]))


def test_fewer_swapped_layers_cost_less_accuracy(model, data):
    options = {"mixer": "hierarchical_attention", "mixer_options": {"block": 4}}
    last, all_of_them = (accuracy(swapped(model, layers=layers, **options), data) for layers in ((3,), None))
    assert all_of_them < last <= accuracy(model, data)


def test_a_fitted_polynomial_keeps_much_and_the_model_stays_as_it_was(model, data):
    before = accuracy(model, data)
    fitted = swapped(model, activation="poly_relu", images=data.train[:64])
    assert accuracy(fitted, data) > before - 0.03
    assert accuracy(model, data) == before
    weights = [block.feed_forward.activation.weight for block in fitted.blocks]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": (4,)}, r"layers = \[4\] is not allowed: choose from 0 to 3"),
        ({"activation": "swiglu"}, "2 up-projections"),
        ({"activation": "poly_norm"}, "give images"),
        ({"width": 64}, "do not fit into this model: width"),
        ({"mixer": "mlp_mixer"}, "do not fit"),
    ],
)
def test_what_needs_other_weights_is_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        swapped(model, **given)


def test_reasons():
    assert needs_other_weights("relu") == [] and "swiglu" in needs_other_weights("swiglu")[0]
