"""A layered circuit of rotations, simulated for many sets of angles at once: probabilities out, without stored states.

Wire 0 is the most significant bit. On wires (a, a + 1) = (a, b) a block of four angles is

.. math:: e^{-i t_2 Z_a / 2}\\; e^{-i t_1 Y_a X_b / 2}\\; e^{-i t_4 X_b / 2}\\; e^{-i t_3 Z_a Y_b / 2}

(the same as CX [Rz(t2) Ry(t1) x Rx(t4) Ry(t3)] CX: moving the CX inside turns each rotation into one of two wires).
A turn of one wire is Rz(t3) Ry(t2) Rz(t1). A register turns every wire and then runs its layers, blocks at the even
wires before those at the odd. With ``parted`` a second register without turns is transposed and runs *first*:
W = U2 U1^T. Its columns never meet, so a program takes a few of them from the identity to W in its registers. Angles:
turns, layers of U2, layers of U1.

Backward by adjoint differentiation: W is computed again, and walked back gate by gate beside its gradient lambda; the
angle of a gate exp(-i t P / 2) gets Im <lambda, P W> / 2, summed over everything. Nothing is kept but the angles.
"""

import torch
from torch import Tensor

from workbench_kernels.circuit.windows import backward_torch, forward_torch
from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

# log2 of the amplitudes that a program, one warp, holds: 2^10 are 32 complex numbers a thread.
FORWARD_LOG, BACKWARD_LOG = 10, 9


def circuit(angles: Tensor, data: int, qubits: int, layers: int, parted: bool) -> Tensor:
    """P (matrices, 2^data, 2^data) of angles (matrices, 3 q + 4 (q - 1) layers); ``parted``: 3 q + 8 (q - 1) layers.

    P_ij is the mean of |W|^2 over the columns of j, summed over the rows of i: of wires 0 to data - 1 only the outcome
    counts. float32 (on a CPU also float64). Differentiable once. On CUDA it needs Triton (`tiles.why_not`).
    32 FLOPs an amplitude and block; memory beside angles and result: 4 bytes an angle and program, backward.
    """
    return _circuit(angles, data, qubits, layers, parted)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(angles: Tensor, data: int, qubits: int, layers: int, parted: bool, log: int = FORWARD_LOG) -> Tensor:
    """The probabilities; a program takes 2^log amplitudes (at least one column)."""
    columns = _log_columns(data, qubits, log)
    matrices, programs = len(angles), 2 ** (qubits - columns)
    sums = torch.empty(matrices, programs, 2**data, dtype=torch.float32, device=angles.device)
    _forward_kernel[(matrices * programs,)](
        trigonometry(angles),
        sums,
        layers,
        angles.shape[1],
        DATA=data,
        QUBITS=qubits,
        COLUMNS=columns,
        PARTED=parted,
        num_warps=_warps(qubits, columns, log),
    )
    return sums.unflatten(1, (2**data, -1)).sum(2).mT.div_(2 ** (qubits - data)).contiguous()


def backward_triton(
    grad: Tensor, angles: Tensor, data: int, qubits: int, layers: int, parted: bool, log: int = BACKWARD_LOG
) -> Tensor:
    """The gradient of the angles from that of the probabilities, summed in a fixed order."""
    columns = _log_columns(data, qubits, log)
    matrices, programs = len(angles), 2 ** (qubits - columns)
    sums = torch.empty(matrices, programs, angles.shape[1], dtype=torch.float32, device=angles.device)
    _backward_kernel[(matrices * programs,)](
        trigonometry(angles),
        grad.contiguous(),
        sums,
        layers,
        angles.shape[1],
        DATA=data,
        QUBITS=qubits,
        COLUMNS=columns,
        PARTED=parted,
        num_warps=_warps(qubits, columns, log),
    )
    return sums.sum(1)


def trigonometry(angles: Tensor) -> Tensor:
    """Cosine and sine of half of every angle (matrices, angles, 2), rounded once: their errors go through all gates."""
    half = angles.double() / 2
    return torch.stack([half.cos(), half.sin()], dim=-1).to(angles.dtype)


def _log_columns(data: int, qubits: int, log: int) -> int:
    """log2 of the columns of a program: no more than there are of one outcome."""
    return max(0, min(log - qubits, qubits - data))


def _warps(qubits: int, columns: int, log: int) -> int:
    """One warp, which never waits for another; more only where a single column is larger than wanted."""
    return 2 ** max(0, qubits + columns - log)


# --- the operation ---------------------------------------------------------------------------------------------------


def _forward_cuda(angles: Tensor, data: int, qubits: int, layers: int, parted: bool) -> Tensor:
    return forward_triton(angles, data, qubits, layers, parted)


def _backward_cuda(grad: Tensor, angles: Tensor, data: int, qubits: int, layers: int, parted: bool) -> Tensor:
    return backward_triton(grad, angles, data, qubits, layers, parted)


_circuit = Operation(
    "circuit",
    forward={"cuda": _forward_cuda, "cpu": forward_torch},
    backward={"cuda": _backward_cuda, "cpu": backward_torch},
    outputs=("probabilities",),
    fake=lambda angles, data, qubits, layers, parted: angles.new_empty(len(angles), 2**data, 2**data),
)


# --- the kernels -----------------------------------------------------------------------------------------------------

# An amplitude's place in a program is its index times 2^COLUMNS plus its column; the last wires and the columns lie
# across the lanes of a warp, the first wires in a thread's own registers, where turning a bit over costs nothing.

if triton is not None:

    @triton.jit
    def _flip(x, WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr):
        """x, with the bit of a wire turned over. Integer sums lose nothing: (p + q) - p is q, bit for bit."""
        low: tl.constexpr = 1 << (QUBITS - 1 - WIRE + COLUMNS)
        pairs = tl.reshape(x.to(tl.int32, bitcast=True), (1 << WIRE, 2, low))
        other = tl.sum(pairs, 1, keep_dims=True) - pairs
        return tl.reshape(other, (1 << (QUBITS + COLUMNS),)).to(tl.float32, bitcast=True)

    @triton.jit
    def _sign(WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr):
        """The eigenvalue of Z: +1 where the wire's bit is 0, -1 where it is 1."""
        place = tl.arange(0, 1 << (QUBITS + COLUMNS))
        return (1 - 2 * ((place >> (QUBITS - 1 - WIRE + COLUMNS)) & 1)).to(tl.float32)

    @triton.jit
    def _turn_z(x, y, sign, c, s):
        """exp(-i t Z / 2) (x + i y)."""
        signed = sign * s
        return c * x + signed * y, c * y - signed * x

    @triton.jit
    def _turn_y(x, y, p, q, sign, c, s):
        """exp(-i t Y / 2) of x + i y, whose partners are p + i q; Y X works the same with other partners."""
        signed = sign * s
        return c * x - signed * p, c * y - signed * q

    @triton.jit
    def _turn_pair(x, y, p, q, u, c3, s3, c4, s4, TURN: tl.constexpr):
        """The second wire's part: ZY(t3), then Rx(t4) (TURN 1), or the other way round (TURN -1)."""
        cc = c3 * c4
        sc = c3 * s4
        ss = u * (TURN * s3 * s4)
        cs = u * (s3 * c4)
        return cc * x + ss * y - cs * p + sc * q, cc * y - ss * x - cs * q - sc * p

    @triton.jit
    def _angles(trig, first):
        """Cosines and sines of a block's four half angles."""
        at = trig + 2 * first
        c1, s1, c2, s2 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        c3, s3, c4, s4 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
        return c1, s1, c2, s2, c3, s3, c4, s4

    @triton.jit
    def _block(x, y, trig, first, WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr):
        """A block of U2."""
        c1, s1, c2, s2, c3, s3, c4, s4 = _angles(trig, first)
        sign = _sign(WIRE, QUBITS, COLUMNS)
        u = sign * _sign(WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        x, y = _turn_pair(x, y, p, q, u, c3, s3, c4, s4, 1)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        x, y = _turn_y(x, y, p, q, sign, c1, s1)
        return _turn_z(x, y, sign, c2, s2)

    @triton.jit
    def _transposed(x, y, trig, first, WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr):
        """A block of U1^T: the order is reversed, and Y^T = -Y."""
        c1, s1, c2, s2, c3, s3, c4, s4 = _angles(trig, first)
        sign = _sign(WIRE, QUBITS, COLUMNS)
        u = sign * _sign(WIRE + 1, QUBITS, COLUMNS)
        x, y = _turn_z(x, y, sign, c2, s2)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        x, y = _turn_y(x, y, p, q, sign, c1, -s1)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        return _turn_pair(x, y, p, q, u, c3, -s3, c4, s4, -1)

    @triton.jit
    def _columns_of_w(
        trig,
        first_column,
        layers,
        DATA: tl.constexpr,
        QUBITS: tl.constexpr,
        COLUMNS: tl.constexpr,
        PARTED: tl.constexpr,
    ):
        """Columns of W, from those of the identity: real and imaginary parts (2^(QUBITS + COLUMNS),)."""
        EVEN: tl.constexpr = QUBITS // 2
        ODD: tl.constexpr = (QUBITS - 1) // 2
        place = tl.arange(0, 1 << (QUBITS + COLUMNS))
        column = first_column + (place & ((1 << COLUMNS) - 1))
        x = ((place >> COLUMNS) == column).to(tl.float32)
        y = tl.zeros_like(x)
        start = 3 * QUBITS
        if PARTED:
            for step in range(0, layers):
                at = start + 4 * (QUBITS - 1) * (2 * layers - 1 - step)
                for k in tl.static_range(ODD):
                    x, y = _transposed(x, y, trig, at + 4 * (EVEN + k), 2 * k + 1, QUBITS, COLUMNS)
                for k in tl.static_range(EVEN):
                    x, y = _transposed(x, y, trig, at + 4 * k, 2 * k, QUBITS, COLUMNS)
        for wire in tl.static_range(QUBITS):
            sign = _sign(wire, QUBITS, COLUMNS)
            turn = trig + 6 * wire
            x, y = _turn_z(x, y, sign, tl.load(turn), tl.load(turn + 1))
            p, q = _flip(x, wire, QUBITS, COLUMNS), _flip(y, wire, QUBITS, COLUMNS)
            x, y = _turn_y(x, y, p, q, sign, tl.load(turn + 2), tl.load(turn + 3))
            x, y = _turn_z(x, y, sign, tl.load(turn + 4), tl.load(turn + 5))
        for layer in range(0, layers):
            at = start + 4 * (QUBITS - 1) * layer
            for k in tl.static_range(EVEN):
                x, y = _block(x, y, trig, at + 4 * k, 2 * k, QUBITS, COLUMNS)
            for k in tl.static_range(ODD):
                x, y = _block(x, y, trig, at + 4 * (EVEN + k), 2 * k + 1, QUBITS, COLUMNS)
        return x, y

    @prepared
    @triton.jit
    def _forward_kernel(
        trig,
        sums,
        layers,
        parameters,
        DATA: tl.constexpr,
        QUBITS: tl.constexpr,
        COLUMNS: tl.constexpr,
        PARTED: tl.constexpr,
    ):
        program = tl.program_id(0).to(tl.int64)
        matrix, group = program >> (QUBITS - COLUMNS), (program & ((1 << (QUBITS - COLUMNS)) - 1)).to(tl.int32)
        trig += 2 * matrix * parameters
        x, y = _columns_of_w(trig, group << COLUMNS, layers, DATA, QUBITS, COLUMNS, PARTED)
        outcomes = tl.reshape(x * x + y * y, (1 << DATA, 1 << (QUBITS - DATA + COLUMNS)))
        tl.store(sums + (program << DATA) + tl.arange(0, 1 << DATA), tl.sum(outcomes, 1))

    @triton.jit
    def _imaginary(x, y, p, q):
        """Im of conj(p + i q) (x + i y), number by number."""
        return p * y - q * x

    @triton.jit
    def _real(x, y, p, q):
        """Re of conj(p + i q) (x + i y), number by number."""
        return p * x + q * y

    @triton.jit
    def _undo_block(x, y, v, w, trig, sums, first, WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr):
        """A block of U2 taken back from W = x + i y and from its gradient v + i w; its angles' gradients stored."""
        c1, s1, c2, s2, c3, s3, c4, s4 = _angles(trig, first)
        sign = _sign(WIRE, QUBITS, COLUMNS)
        u = sign * _sign(WIRE + 1, QUBITS, COLUMNS)
        of_z = tl.sum(sign * _imaginary(x, y, v, w))
        x, y = _turn_z(x, y, sign, c2, -s2)
        v, w = _turn_z(v, w, sign, c2, -s2)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        of_yx = tl.sum(sign * _real(p, q, v, w))
        x, y = _turn_y(x, y, p, q, sign, c1, -s1)
        p, q = _flip(v, WIRE + 1, QUBITS, COLUMNS), _flip(w, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        v, w = _turn_y(v, w, p, q, sign, c1, -s1)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        of_x = tl.sum(_imaginary(p, q, v, w))
        of_zy = tl.sum(u * _real(p, q, v, w))
        of_zz = tl.sum(u * _imaginary(x, y, v, w))
        x, y = _turn_pair(x, y, p, q, u, c3, -s3, c4, -s4, -1)
        p, q = _flip(v, WIRE + 1, QUBITS, COLUMNS), _flip(w, WIRE + 1, QUBITS, COLUMNS)
        v, w = _turn_pair(v, w, p, q, u, c3, -s3, c4, -s4, -1)
        tl.store(sums + first, -0.5 * of_yx)
        tl.store(sums + first + 1, 0.5 * of_z)
        # Rx(t4) Y Rx(-t4) = cos t4 Y + sin t4 Z
        tl.store(sums + first + 2, 0.5 * (2 * s4 * c4 * of_zz - (c4 * c4 - s4 * s4) * of_zy))
        tl.store(sums + first + 3, 0.5 * of_x)
        return x, y, v, w

    @triton.jit
    def _undo_transposed(
        x, y, v, w, trig, sums, first, WIRE: tl.constexpr, QUBITS: tl.constexpr, COLUMNS: tl.constexpr
    ):
        """As ``_undo_block`` for a block of U1^T."""
        c1, s1, c2, s2, c3, s3, c4, s4 = _angles(trig, first)
        sign = _sign(WIRE, QUBITS, COLUMNS)
        u = sign * _sign(WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        of_x = tl.sum(_imaginary(p, q, v, w))
        of_zy = tl.sum(u * _real(p, q, v, w))
        of_zz = tl.sum(u * _imaginary(x, y, v, w))
        x, y = _turn_pair(x, y, p, q, u, c3, s3, c4, -s4, 1)
        p, q = _flip(v, WIRE + 1, QUBITS, COLUMNS), _flip(w, WIRE + 1, QUBITS, COLUMNS)
        v, w = _turn_pair(v, w, p, q, u, c3, s3, c4, -s4, 1)
        p, q = _flip(x, WIRE + 1, QUBITS, COLUMNS), _flip(y, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        of_yx = tl.sum(sign * _real(p, q, v, w))
        x, y = _turn_y(x, y, p, q, sign, c1, s1)
        p, q = _flip(v, WIRE + 1, QUBITS, COLUMNS), _flip(w, WIRE + 1, QUBITS, COLUMNS)
        p, q = _flip(p, WIRE, QUBITS, COLUMNS), _flip(q, WIRE, QUBITS, COLUMNS)
        v, w = _turn_y(v, w, p, q, sign, c1, s1)
        of_z = tl.sum(sign * _imaginary(x, y, v, w))
        x, y = _turn_z(x, y, sign, c2, -s2)
        v, w = _turn_z(v, w, sign, c2, -s2)
        tl.store(sums + first, 0.5 * of_yx)
        tl.store(sums + first + 1, 0.5 * of_z)
        tl.store(sums + first + 2, 0.5 * of_zy)
        # exp(i t3 ZY / 2) X exp(-i t3 ZY / 2) = cos t3 X + sin t3 ZZ
        tl.store(sums + first + 3, 0.5 * ((c3 * c3 - s3 * s3) * of_x + 2 * s3 * c3 * of_zz))
        return x, y, v, w

    @prepared
    @triton.jit
    def _backward_kernel(
        trig,
        grad,
        sums,
        layers,
        parameters,
        DATA: tl.constexpr,
        QUBITS: tl.constexpr,
        COLUMNS: tl.constexpr,
        PARTED: tl.constexpr,
    ):
        EVEN: tl.constexpr = QUBITS // 2
        ODD: tl.constexpr = (QUBITS - 1) // 2
        program = tl.program_id(0).to(tl.int64)
        matrix, group = program >> (QUBITS - COLUMNS), (program & ((1 << (QUBITS - COLUMNS)) - 1)).to(tl.int32)
        trig += 2 * matrix * parameters
        sums += program * parameters
        first_column = group << COLUMNS
        x, y = _columns_of_w(trig, first_column, layers, DATA, QUBITS, COLUMNS, PARTED)
        row = tl.arange(0, 1 << (QUBITS + COLUMNS)) >> (QUBITS - DATA + COLUMNS)
        above = tl.load(grad + (matrix << (2 * DATA)) + (row << DATA) + (first_column >> (QUBITS - DATA)))
        above = above.to(tl.float32) * (2.0 / (1 << (QUBITS - DATA)))
        v, w = above * x, above * y
        start = 3 * QUBITS
        for step in range(0, layers):
            at = start + 4 * (QUBITS - 1) * (layers - 1 - step)
            for k in tl.static_range(ODD):
                x, y, v, w = _undo_block(x, y, v, w, trig, sums, at + 4 * (EVEN + k), 2 * k + 1, QUBITS, COLUMNS)
            for k in tl.static_range(EVEN):
                x, y, v, w = _undo_block(x, y, v, w, trig, sums, at + 4 * k, 2 * k, QUBITS, COLUMNS)
        for wire in tl.static_range(QUBITS):
            sign = _sign(wire, QUBITS, COLUMNS)
            turn = trig + 6 * wire
            tl.store(sums + 3 * wire + 2, 0.5 * tl.sum(sign * _imaginary(x, y, v, w)))
            c, s = tl.load(turn + 4), tl.load(turn + 5)
            x, y = _turn_z(x, y, sign, c, -s)
            v, w = _turn_z(v, w, sign, c, -s)
            c, s = tl.load(turn + 2), tl.load(turn + 3)
            p, q = _flip(x, wire, QUBITS, COLUMNS), _flip(y, wire, QUBITS, COLUMNS)
            tl.store(sums + 3 * wire + 1, -0.5 * tl.sum(sign * _real(p, q, v, w)))
            x, y = _turn_y(x, y, p, q, sign, c, -s)
            p, q = _flip(v, wire, QUBITS, COLUMNS), _flip(w, wire, QUBITS, COLUMNS)
            v, w = _turn_y(v, w, p, q, sign, c, -s)
            tl.store(sums + 3 * wire, 0.5 * tl.sum(sign * _imaginary(x, y, v, w)))
            c, s = tl.load(turn), tl.load(turn + 1)
            x, y = _turn_z(x, y, sign, c, -s)
            v, w = _turn_z(v, w, sign, c, -s)
        if PARTED:
            for layer in range(0, layers):
                at = start + 4 * (QUBITS - 1) * (layers + layer)
                for k in tl.static_range(EVEN):
                    x, y, v, w = _undo_transposed(x, y, v, w, trig, sums, at + 4 * k, 2 * k, QUBITS, COLUMNS)
                for k in tl.static_range(ODD):
                    x, y, v, w = _undo_transposed(
                        x, y, v, w, trig, sums, at + 4 * (EVEN + k), 2 * k + 1, QUBITS, COLUMNS
                    )
