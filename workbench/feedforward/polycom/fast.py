"""PolyNorm and PolyReLU in one read and one write, with float32 arithmetic inside."""

from workbench.feedforward.polycom.inputs import Bias, Epsilon, Rows, Weight, check_polynomial


def poly_norm(x: Rows, weight: Weight, bias: Bias, *, eps: Epsilon = 1e-6) -> Rows:
    """PolyNorm in one pass over x: a Triton kernel on CUDA, rows in cache-sized pieces on a CPU.

    Arguments and errors as ``reference``. Powers, sums and polynomial are float32 (float64 for float64 input) and are
    rounded once; numbers of any size are right, for a row is first divided by a power of two, which rounds nothing. The
    backward pass keeps x and ``order`` + 1 numbers a row, and is deterministic.
    """
    check_polynomial("poly_norm", x, weight, bias)
    from workbench_kernels.activation import poly_norm as kernels

    return kernels.poly_norm(x, weight, bias, eps)


def poly_relu(x: Rows, weight: Weight, bias: Bias) -> Rows:
    """PolyReLU in one pass over x, as ``poly_norm``'s; the backward pass keeps x alone, and is deterministic."""
    check_polynomial("poly_relu", x, weight, bias)
    from workbench_kernels.activation import poly_relu as kernels

    return kernels.poly_relu(x, weight, bias)
