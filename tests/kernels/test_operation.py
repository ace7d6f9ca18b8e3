"""One declaration gives eager calls, autograd, torch.func and torch.compile; what it cannot do it says."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from workbench_kernels.operation import Operation

CALLS = []


def cube_forward(x: Tensor, weight: Tensor, power: float) -> tuple[Tensor, Tensor]:
    CALLS.append("forward")
    return weight * x**power, x * x


def cube_backward(grad: Tensor, square: Tensor, x: Tensor, weight: Tensor, power: float) -> tuple[Tensor, Tensor]:
    CALLS.append("backward")
    return power * grad * weight * square, (grad * square * x).sum()[None]


cube = Operation(
    "test_cube",
    forward=cube_forward,
    backward={"cuda": cube_backward, "cpu": cube_backward},
    outputs=("y", "square"),
    fake=lambda x, weight, power: (x.new_empty(x.shape), x.new_empty(x.shape)),
)


def parts_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x, 3 * x


def parts_backward(double: Tensor, triple: Tensor) -> Tensor:
    return 2 * double + 3 * triple


parts = Operation(
    "test_parts",
    forward=parts_forward,
    backward=parts_backward,
    outputs=("double", "triple"),
    results=2,
    fake=lambda x: (torch.empty_like(x), torch.empty_like(x)),
    fake_backward=lambda double, triple: torch.empty_like(double),
)


def signs_forward(x: Tensor) -> Tensor:
    return x.sign()


signs = Operation("test_signs", forward=signs_forward, fake=torch.empty_like)


def plain(x, weight):
    return weight * x**3


@pytest.fixture
def leaves():
    CALLS.clear()
    return torch.randn(3, 4, requires_grad=True), torch.randn(1, requires_grad=True)


def apply(x, weight):
    return cube(x, weight, 3.0)[0]


def close(found, expected):
    torch.testing.assert_close(found, expected)


def test_value_and_gradients(leaves):
    close(apply(*leaves), plain(*leaves))
    close(torch.autograd.grad(apply(*leaves).sum(), leaves), torch.autograd.grad(plain(*leaves).sum(), leaves))
    assert CALLS == ["forward", "forward", "backward"]


def test_it_keeps_what_the_backward_function_names(leaves):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        y = apply(*leaves)
    assert kept == [y.shape, y.shape, (1,)]


def test_without_a_gradient_there_is_no_graph(leaves):
    assert apply(*(leaf.detach() for leaf in leaves)).grad_fn is None
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert not apply(*leaves).requires_grad
    y, square = cube(*leaves, 3.0)
    assert y.requires_grad and not square.requires_grad


def test_gradients_of_one_input_alone(leaves):
    x, weight = leaves
    (found,) = torch.autograd.grad(apply(x.detach(), weight).sum(), weight)
    close(found, (x.detach() ** 3).sum()[None])


def test_second_derivatives_are_refused_when_they_are_taken(leaves):
    x, weight = leaves
    (first,) = torch.autograd.grad(apply(x, weight).sum(), x, create_graph=True)
    close(first, 3 * weight * x * x)
    with pytest.raises(NotImplementedError, match="test_cube can be differentiated once.*implementation='reference'"):
        first.sum().backward()
    once = torch.func.grad(lambda x: apply(x, weight).sum())
    with pytest.raises(NotImplementedError, match="test_cube can be differentiated once"):
        torch.func.grad(lambda x: once(x).sum())(x)
    operator = torch.ops.workbench.test_cube
    (first,) = torch.autograd.grad(operator(x, weight, 3.0)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="test_cube can be differentiated once"):
        first.sum().backward()


def test_forward_mode_is_refused(leaves):
    x, weight = (leaf.detach() for leaf in leaves)
    with pytest.raises(NotImplementedError, match="test_cube.*forward-mode.*implementation='reference'"):
        torch.func.jvp(lambda x: apply(x, weight), (x,), (x,))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        close(apply(x, weight), plain(x, weight))
        with pytest.raises(NotImplementedError, match="test_cube.*forward-mode"):
            apply(dual, weight)


def test_transforms_of_torch_func(leaves):
    x, weight = (leaf.detach() for leaf in leaves)
    batch = torch.stack([x, -2 * x])
    close(torch.func.vmap(apply, (0, None))(batch, weight), plain(batch, weight))
    close(torch.func.vmap(apply, (1, None), 1)(x, weight), plain(x, weight))
    close(torch.func.jacrev(apply)(x, weight), torch.func.jacrev(plain)(x, weight))

    def of_each(call):
        of_one = torch.func.grad(lambda weight, x: call(x, weight).sum())
        return torch.func.vmap(of_one, (None, 0))(weight, x)

    close(of_each(apply), of_each(plain))
    with pytest.raises(ValueError, match="batch of none"):
        torch.func.vmap(apply, (0, None))(x[:0], weight)


def test_a_tracer_sees_the_operator(leaves):
    x, weight = (leaf.detach() for leaf in leaves)
    code = make_fx(torch.func.grad(lambda x: apply(x, weight).sum()))(x).code
    assert "workbench.test_cube.default" in code and "workbench.test_cube_backward.default" in code
    close(torch.jit.trace(apply, (x, weight))(2 * x, weight), plain(2 * x, weight))
    meta = apply(x.to("meta"), weight.to("meta"))
    assert meta.shape == x.shape


def test_it_compiles_without_a_break(leaves):
    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    found = compiled(*leaves)
    close(found, plain(*leaves))
    close(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(plain(*leaves).sum(), leaves))


def test_pytorchs_own_checks(leaves):
    for operation, inputs in ((cube, (*leaves, 3.0)), (parts, leaves[:1])):
        assert set(torch.library.opcheck(operation.operator, inputs).values()) == {"SUCCESS"}


def test_nothing_gives_nothing_and_gradients_of_zero(leaves):
    _, weight = leaves
    x = torch.zeros(0, 4, requires_grad=True)
    y = apply(x, weight)
    assert y.shape == (0, 4)
    of_x, of_weight = torch.autograd.grad(y.sum(), (x, weight))
    assert of_x.shape == (0, 4) and of_weight.tolist() == [0.0]
    assert CALLS == []


def test_several_results(leaves):
    x, _ = leaves
    double, triple = parts(x)
    close(torch.autograd.grad(double.sum(), x, retain_graph=True)[0], torch.full_like(x, 2.0))
    close(torch.autograd.grad((double + triple).sum(), x)[0], torch.full_like(x, 5.0))


def test_an_operation_without_a_derivative_says_so(leaves):
    y = signs(leaves[0])
    close(y, leaves[0].sign())
    with pytest.raises(NotImplementedError, match="test_signs has no derivative"):
        y.sum().backward()


def test_functions_that_do_not_fit_together():
    def late(x: Tensor, power: float, weight: Tensor) -> Tensor: ...
    def wants(grad: Tensor, y: Tensor) -> Tensor: ...

    with pytest.raises(TypeError, match="tensors come before options, not x, power, weight"):
        Operation("test_late", forward=late, fake=late)
    with pytest.raises(TypeError, match="wants does not take x: fake_backward is needed"):
        Operation("test_wants", forward=signs_forward, backward=wants, fake=torch.empty_like)
    with pytest.raises(TypeError, match="wants takes y, and there are x, output"):
        Operation("test_wants", forward=signs_forward, backward=wants, fake=torch.empty_like, fake_backward=wants)
