"""Terms of the trade, explained in one sentence: those that several lessons use stand here, once."""

from collections.abc import Mapping

from workbench_widgets import page

TERMS = {
    "atomic operation": "An addition to a number in memory that cannot be interrupted, so that several programs may "
    "add to the same number; in which order they do is not fixed, and rounding may differ from run to run.",
    "autograd": "PyTorch's bookkeeping of a forward pass, from which it derives the backward pass by itself.",
    "bandwidth": "How many bytes a memory delivers in a second; an H200's main memory about 4.2 TB/s when copying.",
    "bfloat16": "A number of 16 bits with the range of float32 and three significant decimal digits.",
    "block": "A piece of a matrix (also: a tile) that is small enough to be worked on where memory is quick.",
    "CUDA graph": "A sequence of GPU kernels, recorded once and replayed as a whole: the host launches one thing "
    "instead of hundreds, so that its own time disappears.",
    "DDIM": "A sampler for diffusion models that adds no new noise on the way: the same start gives the same picture.",
    "diffusion model": "A network that takes a little of the noise out of a picture at every step; begun with pure "
    "noise, it ends with a picture.",
    "doubly stochastic": "Of a matrix: no entry is negative, and every row and every column sums to 1.",
    "eager": "PyTorch's ordinary way: every operation runs on its own, as soon as it is reached.",
    "FID": "Fréchet inception distance: how far the statistics of generated pictures are from those of real ones, "
    "seen through a network; less is better, and it says nothing of a single picture.",
    "FLOP": "One multiplication or addition of floating-point numbers; FLOP/s is how many of them are done in a "
    "second.",
    "fused": "Of operations: done by one kernel, which keeps what is in between in registers instead of writing it to "
    "memory.",
    "GLU": "Gated linear unit: one linear map of the input is multiplied, number by number, with an activation of "
    "another one.",
    "guidance": "Classifier-free guidance: the network is asked with and without the label, and the difference of its "
    "answers is added several times; it doubles the work of a step.",
    "host": "The processor beside the GPU. It launches kernels, and takes microseconds for each.",
    "kernel": "A function that runs on a GPU, as many programs at once.",
    "logsumexp": "log(exp(x₁) + exp(x₂) + ...), computed without overflow by taking the largest x out first.",
    "memory-bound": "Of an operation: it waits for memory, not for arithmetic, so that fewer bytes make it faster and "
    "fewer FLOPs do not.",
    "multiprocessor": "One of the 132 independent units of an H200; each runs programs with its own registers and "
    "shared memory.",
    "online softmax": "Softmax over numbers that arrive one after the other: the largest so far and the sum so far "
    "are kept, and corrected when a larger one comes.",
    "program": "One of the many copies of a kernel that run at once, each on its own part of the data; CUDA calls it "
    "a thread block.",
    "PSNR": "Peak signal-to-noise ratio, in decibels: how near a picture is to another, pixel by pixel; more is "
    "nearer.",
    "register": "The quickest memory of a GPU: some 64,000 numbers for each multiprocessor, shared by its programs.",
    "roofline": "The bound that a machine sets: for few operations a byte the line of its bandwidth, for many the "
    "flat line of its arithmetic.",
    "shared memory": "Quick memory of 228 KiB inside each multiprocessor, filled by hand; next to registers the "
    "fastest.",
    "tensor core": "The unit of a GPU that multiplies small matrices; an H200's do about 790 TFLOP/s in bfloat16.",
    "warp": "32 threads of a program that do the same instruction at the same time.",
}


def show_glossary(*terms: str | Mapping[str, str]) -> None:
    """Show terms with their explanations, in alphabetical order: names of ``TERMS``, and mappings with terms of the
    lesson's own (they may hold HTML).

    Raises ``ValueError`` for a term that nobody explains, and for one that is explained twice.
    """
    found: dict[str, str] = {}
    for given in terms:
        explained = {given: _explained(given)} if isinstance(given, str) else given
        if twice := sorted(set(explained) & (set(found) | (set() if isinstance(given, str) else set(TERMS)))):
            raise ValueError(f"{twice[0]!r} is explained already: name it, and leave its explanation out.")
        found |= explained
    rows = "".join(f"<dt>{page.escape(term)}</dt><dd>{found[term]}</dd>" for term in sorted(found, key=str.casefold))
    page.show_html(f'<p><b>Glossary</b></p><dl class="wb-glossary">{rows}</dl>')


def _explained(term: str) -> str:
    if term not in TERMS:
        raise ValueError(f"{term!r} is not in the glossary: explain it yourself, or name one of {list(TERMS)}.")
    return TERMS[term]
