"""A method as an object: kept, copied, sent to another process, used inside and outside of ``inference_mode``."""

import copy
import inspect
import io
import pickle

import torch

from workbench.conformance.cases import EVERY, call, differentiable, small
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import assert_close, named_tensors, run
from workbench.paper import Method


@check(devices=("cpu",))
def pickles_and_copies(method: Method, context: Context) -> None:
    """A method goes through ``pickle`` and ``copy.deepcopy`` as itself, by its name: so modules that hold one can be
    saved, and sent to a data loader's process.
    """
    assert pickle.loads(pickle.dumps(method)) is method, "a pickled method comes back as another"
    assert copy.deepcopy(method) is method, "a copied method is another"
    assert copy.copy(method) is method, "a copied method is another"


@check(devices=("cpu",))
def inference_then_training(method: Method, context: Context) -> None:
    """What a call inside ``torch.inference_mode()`` leaves behind (tables, trees, graphs) can be trained with, and
    serves another dtype: the same objects go in, outside, and gradients come out.
    """
    for dtype in ("float32", "float64"):
        if dtype not in method.traits.dtypes:
            continue
        example = small(method, 23, dtype=dtype, device=context.device)  # a size that no other check has
        for implementation in EVERY:
            if implementation != "auto" and not context.runs(method, implementation, example):
                continue
            with context.case(f"{implementation}, {dtype}"):
                with torch.inference_mode():
                    inside = named_tensors(call(method, implementation, example))
                outside = named_tensors(call(method, implementation, example))
                for name, expected in outside.items():
                    tolerance = 1e-4 if dtype == "float32" else 1e-9
                    assert_close(inside[name].clone(), expected, tolerance=tolerance, name=name)
                if differentiable(method) and implementation != "auto":
                    run(method, implementation, example)


@check(devices=("cpu",))
def the_layer_holds_weights_only(method: Method, context: Context) -> None:
    """A layer's state is its parameters; it takes ``implementation``, gives the same with either, and survives pickle,
    ``copy.deepcopy``, ``torch.save`` and a change of dtype.
    """
    if not method.layer:
        raise DoesNotApply("It has no layer.")
    layer = method.layer(20)
    x = torch.randn(3, 20 * method.branches)
    assert list(layer.parameters()), "the layer has no weights: then the method needs none"
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}, (
        "the layer keeps more than weights"
    )
    output = layer(x)
    assert output.shape == (3, 20), f"the layer gives {tuple(output.shape)}"
    if "implementation" in inspect.signature(method.layer).parameters:
        other = method.layer(20, implementation="reference")
        other.load_state_dict(layer.state_dict())
        assert_close(output, other(x), tolerance=1e-5)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(saved, weights_only=False)):
        assert torch.equal(twin(x), output), "a copy of the layer gives another result"
    assert layer.double()(x.double()).dtype == torch.float64
