"""Prepared launches: what is looked up, when an ordinary launch is made. A kernel's stand-in notes what it is given."""

from types import SimpleNamespace

import pytest
import torch

from workbench_kernels import launch

pytest.importorskip("triton", reason="Triton is not installed: it comes for Linux only.")


class Kernel:
    """As Triton's: ``kernel[grid](...)`` compiles and launches, and returns the compiled form."""

    def __init__(self):
        self.params = [SimpleNamespace(name=name, default=None) for name in ("x", "y", "numbers", "BLOCK", "MODE")]
        self.params[-1].default = "plain"
        self.ordinary, self.launched = [], []

    def __getitem__(self, grid):
        def call(*arguments, **constants):
            self.ordinary.append((grid, arguments, constants))
            return SimpleNamespace(run=self.run, function=11, packed_metadata=(4, 1, 0))

        return call

    def run(self, *arguments):
        self.launched.append(arguments)


class OnCuda(torch.Tensor):
    """A tensor that says it is on the first GPU."""

    device = torch.device("cuda", 0)

    def get_device(self):
        return 0


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(launch, "_current_device", lambda: 0)
    monkeypatch.setattr(launch, "_current_stream", lambda device: 70 + device)
    return launch.Prepared(Kernel())


def pair(dtype=torch.float32, offset=0):
    return [torch.zeros(40, dtype=dtype).as_subclass(OnCuda)[offset : 32 + offset] for _ in range(2)]


def kinds(kernel):
    return len(kernel.kernel.ordinary), len(kernel.kernel.launched)


def test_the_first_launch_is_ordinary_and_the_next_is_the_drivers(kernel):
    x, y = pair()
    kernel[(3,)](x, y, 32, BLOCK=16, num_warps=4)
    assert kernel.kernel.ordinary == [((3,), (x, y, 32), {"BLOCK": 16, "num_warps": 4})]
    x, y = pair()
    kernel[(5, 2)](x, y, 64, BLOCK=16, num_warps=4)
    pointers = (x.data_ptr(), y.data_ptr())
    assert kernel.kernel.launched == [(5, 2, 1, 70, 11, (4, 1, 0), None, None, None, *pointers, 64, 16, "plain")]


def test_what_triton_compiles_for_is_told_apart(kernel):
    calls = [
        (pair(), 32, {"BLOCK": 16}),
        (pair(torch.float16), 32, {"BLOCK": 16}),
        (pair(offset=1), 32, {"BLOCK": 16}),  # no longer at a multiple of 16 bytes
        (pair(), 33, {"BLOCK": 16}),
        (pair(), 1, {"BLOCK": 16}),
        (pair(), 1 << 40, {"BLOCK": 16}),
        (pair(), (1 << 40) + 1, {"BLOCK": 16}),
        (pair(), 0.5, {"BLOCK": 16}),
        (pair(), True, {"BLOCK": 16}),
        (pair(), None, {"BLOCK": 16}),
        (pair(), 32, {"BLOCK": 32}),
        (pair(), 32, {"BLOCK": 16, "num_warps": 8}),
    ]
    for _ in range(2):
        for tensors, number, constants in calls:
            kernel[(1,)](*tensors, number, **constants)
    assert kinds(kernel) == (len(calls), len(calls))
    kernel[(1,)](*pair(), -48, BLOCK=16)  # another number of the same kind
    assert kinds(kernel) == (len(calls), len(calls) + 1)


def test_descriptors_of_tensors(kernel):
    from triton.tools.tensor_descriptor import TensorDescriptor

    def described(rows, dtype=torch.float32):
        tensor = torch.zeros(8, 16, dtype=dtype).as_subclass(OnCuda)
        return TensorDescriptor(tensor, tensor.shape, tensor.stride(), [rows, 16])

    x, y = pair()
    for _ in range(2):
        for descriptor in (described(4), described(8), described(4, torch.float16)):
            kernel[(1,)](x, descriptor, 32, BLOCK=16)
    assert kinds(kernel) == (3, 3)
    assert kernel.kernel.launched[-1][10] is descriptor
    with pytest.raises(ValueError, match="one device, not on cpu and cuda:0"):
        elsewhere = torch.zeros(8, 16)
        kernel[(1,)](x, TensorDescriptor(elsewhere, elsewhere.shape, elsewhere.stride(), [4, 16]), 32, BLOCK=16)


def test_ordinary_launches_where_somebody_listens_or_only_triton_can_judge(kernel):
    from triton import knobs

    x, y = pair()
    kernel[(1,)](x, y, 32, BLOCK=16)
    hook = print
    knobs.runtime.launch_enter_hook.add(hook)
    try:
        kernel[(1,)](x, y, 32, BLOCK=16)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    assert kinds(kernel) == (2, 0)
    for _ in range(2):
        kernel[(1,)](x, SimpleNamespace(base=y), 32, BLOCK=16)
    assert kinds(kernel) == (4, 0)


def test_a_launcher_of_another_shape_is_left_to_triton_and_said_once(kernel):
    def run(*arguments):
        raise TypeError("function takes exactly 3 arguments")

    kernel.kernel.run = run
    launch._say_that_launches_are_ordinary.cache_clear()
    bound = launch.Bound(kernel, (1,), (32,), {"BLOCK": 16})
    with pytest.warns(RuntimeWarning, match="results are right") as said:
        for _ in range(3):
            kernel[(1,)](*pair(), 32, BLOCK=16)
            bound(launch.Operands(*pair()))
    assert kinds(kernel) == (6, 0) and len(said) == 1


def test_a_bound_launch_looks_at_its_tensors_only(kernel):
    step = launch.Bound(kernel, (3,), (32, 0.5), {"BLOCK": 16, "num_warps": 4})
    x, y = pair()
    step(launch.Operands(x, y))
    assert kernel.kernel.ordinary == [((3,), (x, y, 32, 0.5), {"BLOCK": 16, "num_warps": 4})]
    x, y = pair()
    step(launch.Operands(x, y))
    pointers = (x.data_ptr(), y.data_ptr())
    kernel[(3,)](x, y, 32, 0.5, BLOCK=16, num_warps=4)
    bound, free = kernel.kernel.launched
    assert bound == free and bound[9:13] == (*pointers, 32, 0.5)
    for other in (pair(torch.float16), pair(offset=1)):  # other types, another alignment: another form
        step(launch.Operands(*other))
        step(launch.Operands(*other))
    assert kinds(kernel) == (3, 4)
    with pytest.raises(ValueError, match="one device, not on cpu and cuda:0"):
        step(launch.Operands(x, torch.zeros(40)))


def test_a_bound_launch_is_ordinary_where_somebody_listens_and_on_another_device(kernel, monkeypatch):
    from triton import knobs

    step, operands = launch.Bound(kernel, (3,), (32,), {"BLOCK": 16}), launch.Operands(*pair())
    step(operands)
    knobs.runtime.launch_enter_hook.add(print)
    try:
        step(operands)
    finally:
        knobs.runtime.launch_enter_hook.remove(print)
    assert kinds(kernel) == (2, 0)
    entered = []
    current = [1]
    monkeypatch.setattr(launch, "_current_device", lambda: current[0])

    class On:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            entered.append(self.device)
            current[0] = self.device

        def __exit__(self, *_):
            current[0] = 1

    monkeypatch.setattr(torch.cuda, "device", On)
    step(operands)
    assert entered == [0] and kinds(kernel) == (2, 1)


def test_a_bound_launch_in_the_interpreter():
    kernel = Kernel()
    x, y = torch.zeros(4), torch.ones(4)
    launch.Bound(kernel, (2,), (32,), {"BLOCK": 16})(launch.Operands(x, y))
    assert kernel.ordinary == [((2,), (x, y, 32), {"BLOCK": 16})]


def test_tuples_are_looked_into(kernel):
    for _ in range(2):
        x, y = pair()
        kernel[(1,)]((x, y), ((4, 1), (16,)), 32, BLOCK=16)
    assert kinds(kernel) == (1, 1)
    assert kernel.kernel.launched[0][9:12] == ((x.data_ptr(), y.data_ptr()), ((4, 1), (16,)), 32)
    kernel[(1,)]((x, y), ((4, 1), (17,)), 32, BLOCK=16)
    kernel[(1,)](tuple(pair(torch.float16)), ((4, 1), (16,)), 32, BLOCK=16)
    assert kinds(kernel) == (3, 1)


def test_tensors_of_one_device(kernel):
    x, _ = pair()
    with pytest.raises(ValueError, match="one device, not on cpu and cuda:0"):
        kernel[(1,)](x, torch.zeros(4), 4, BLOCK=16)
    with pytest.raises(ValueError, match="runs on CUDA, and the tensors are on cpu"):
        kernel[(1,)](torch.zeros(4), torch.zeros(4), 4, BLOCK=16)


def test_what_is_remembered_is_bounded(kernel, monkeypatch):
    monkeypatch.setattr(launch, "MOST_KEPT", 4)
    for block in range(20):
        kernel[(1,)](*pair(), 32, BLOCK=block)
        assert len(kernel.forms) <= 4


def test_in_the_interpreter_a_kernel_is_itself():
    kernel = object()
    assert launch.prepared(kernel) is kernel
