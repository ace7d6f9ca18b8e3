"""Training side by side: fair, repeatable, reported, stopped."""

import dataclasses

import pytest
import torch

from workbench.models import training
from workbench.models.training import train
from workbench.models.transformer import TransformerConfig
from workbench.models.vit import ViTConfig, pretrained_config
from workbench.tasks import grammar, images

TINY = ViTConfig(width=16, depth=1, heads=2)
WRITER = TransformerConfig(len(grammar.ALPHABET), width=16, depth=1, heads=2, tokens=16)


def numbers(laps):
    return [(lap.name, lap.step, lap.loss, lap.validation, lap.accuracy) for lap in laps]


def test_everybody_reports_after_every_lap():
    laps = list(train({"a": TINY, "b": dataclasses.replace(TINY, depth=2)}, "digits", steps=5, batch=8, lap=2))
    assert [(lap.name, lap.step) for lap in laps] == [("a", 2), ("b", 2), ("a", 4), ("b", 4), ("a", 5), ("b", 5)]
    assert all(lap.steps == 5 and 0 <= lap.accuracy <= 1 and lap.validation > 0 for lap in laps)
    assert 0 < laps[0].seconds < laps[2].seconds < laps[4].seconds
    assert laps[0].model is laps[4].model and laps[1].model.config.depth == 2


def test_digits_are_learned():
    """Two configurations, one with mixing and one without; on a quiet core this takes 5 seconds."""
    configs = {"attention": ViTConfig(), "bag of patches": ViTConfig(mixer="activator", position="none")}
    *_, attention, bag = train(configs, "digits", steps=250, lap=250)
    assert attention.accuracy > 0.8 > bag.accuracy > 0.5


def test_accuracy_is_that_of_the_model():
    *_, last = train({"a": TINY}, "digits", steps=4, batch=8, lap=3)
    digits = images.load("digits")
    right = (last.model(digits.test).argmax(1) == digits.test_labels).float().mean().item()
    assert last.accuracy == pytest.approx(right)


def test_same_numbers_whoever_else_runs_and_whenever_it_reports():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    together = list(train({"a": TINY, "b": dataclasses.replace(TINY, heads=1)}, "digits", steps=4, batch=8, lap=2))
    assert torch.equal(torch.rand(1), expected)
    alone = list(train({"b": dataclasses.replace(TINY, heads=1)}, "digits", steps=4, batch=8, lap=1))
    assert (together[-1].validation, together[-1].accuracy) == (alone[-1].validation, alone[-1].accuracy)


def test_the_seed_counts():
    first, again, other = (
        numbers(train({"a": TINY}, "digits", steps=3, batch=8, lap=3, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_language_model_is_validated_at_the_end():
    laps = list(train({"writer": WRITER}, "grammar", steps=40, batch=8, lap=20, learning_rate=1e-2))
    assert [lap.validation is None for lap in laps] == [True, False]
    assert all(lap.accuracy is None for lap in laps)
    assert laps[-1].loss < laps[0].loss and abs(laps[-1].validation - laps[-1].loss) < 0.4


def test_training_can_be_stopped():
    laps = train({"a": TINY}, "digits", steps=10**9, lap=1, batch=2)
    assert next(laps).step == 1
    laps.close()
    assert list(laps) == []


def test_a_set_of_ones_own():
    """Any images will do: here bright ones against dark ones."""
    bright = torch.arange(40) % 2
    pixels = (2.0 * bright - 1)[:, None, None, None].expand(40, 1, 4, 4) + 0.1 * torch.randn(40, 1, 4, 4)
    task = images.Images("brightness", pixels, bright, pixels, bright, ("dark", "bright"))
    config = ViTConfig(image=4, classes=2, width=16, depth=1, heads=2)
    *_, last = train({"a": config}, task, steps=30, batch=16, learning_rate=1e-2)
    assert last.accuracy == 1


def test_the_shipped_model_is_trained_on_moved_digits_too():
    lap = next(training.train_shipped(steps=1))
    assert lap.model.config == pretrained_config() and lap.step == 1


# --- asked wrongly ---------------------------------------------------------------------------------------------------

WRONG = {
    "no steps": ({"steps": 0}, "steps = 0.*at least 1"),
    "no lap": ({"lap": 0}, "lap = 0"),
    "an empty batch": ({"batch": 0}, "batch = 0"),
    "a text model for images": ({"configs": {"a": WRITER}}, "digits are images.*ViTConfig, not a TransformerConfig"),
    "an image model for text": ({"task": "grammar"}, "text: it needs a TransformerConfig, not a ViTConfig"),
    "other images": (
        {"configs": {"a": ViTConfig(image=28)}},
        r"\(1, 8, 10\), and the configuration has \(1, 28, 10\)",
    ),
    "another alphabet": (
        {"task": "grammar", "configs": {"a": dataclasses.replace(WRITER, vocabulary=7)}},
        "vocabulary = 30.*has 7",
    ),
    "a writer that sees the future": (
        {"task": "grammar", "configs": {"a": dataclasses.replace(WRITER, is_causal=False)}},
        "is_causal = True",
    ),
    "an unknown task": ({"task": "cifar"}, "'cifar'.*choose 'digits'"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_requests(changes, message):
    """Refused when asked, before anything is trained."""
    with pytest.raises(ValueError, match=message):
        train(**{"configs": {"a": TINY}, "task": "digits", **changes})
