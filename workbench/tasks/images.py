"""Real images to classify: scikit-learn's handwritten digits everywhere, Fashion-MNIST where Debian's package is.

Nothing is downloaded. Debian and Ubuntu have the clothes in ``apt-get install dataset-fashion-mnist``.
"""

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DIGITS_FOR_TRAINING = 1437
CLOTHES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set, cut in two. Everybody shares it: do not write into its tensors.

    train, test                (n, 1, height, width), float32 from -1 (background) to 1
    train_labels, test_labels  (n,), int64, places in ``classes``
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.train.shape[-1]


def load(name: str = "digits") -> Images:
    """A set by name, read once.

    "digits"         1 797 handwritten digits, 8 x 8, from scikit-learn: 1 437 to train on, 360 to test, cut at random
                     (always the same cut)
    "fashion_mnist"  60 000 and 10 000 pieces of clothing, 28 x 28: 190 MB as float32

    Raises ``ValueError`` for another name, and for one that is not on this machine (``why_not`` says so beforehand).
    """
    if name not in _READERS:
        raise ValueError(f"No set of images is called {name!r}: choose {' or '.join(map(repr, _READERS))}.")
    if reasons := why_not(name):
        raise ValueError(" ".join(reasons))
    with torch.inference_mode(False):  # a set is kept: who asks first may not train, who asks next may
        return _READERS[name]()


def names() -> tuple[str, ...]:
    """The sets that this machine has."""
    return tuple(name for name in _READERS if not why_not(name))


def why_not(name: str) -> list[str]:
    """Why a set cannot be loaded here, in sentences; empty: it can."""
    if name not in _READERS:
        return [f"No set of images is called {name!r}: choose {' or '.join(map(repr, _READERS))}."]
    if name == "fashion_mnist" and not all(file.is_file() for file in _fashion_files()):
        return [f"Fashion-MNIST is not in {FASHION_MNIST}: Debian's package dataset-fashion-mnist puts it there."]
    return []


@functools.cache
def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().div(8).sub(1)[:, None]  # 0 to 16 becomes -1 to 1
    labels = torch.from_numpy(digits.target).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    train, test = order[:DIGITS_FOR_TRAINING], order[DIGITS_FOR_TRAINING:]
    return Images("digits", pixels[train], labels[train], pixels[test], labels[test], tuple(map(str, range(10))))


def left_of(train: int = 1000, test: int = 400, seed: int = 0) -> Images:
    """A control for models without token mixing: is the cross left (class 0) or right (class 1) of the square?

    Two patches of 2 x 2 pixels in an image of 8 x 8, in different columns; a dot of random grey in every other patch.
    For each image there is one of the other class made of the same patches, so nothing but their places tells.
    """
    generator = torch.Generator().manual_seed(seed)
    cross, square = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.ones(2, 2)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        patches = torch.full((count, 4, 4, 2, 2), -1.0)
        patches[..., 0, 0] = torch.rand(count, 4, 4, generator=generator) - 1
        columns = torch.rand(count, 4, generator=generator).argsort(1)[:, :2]
        rows = torch.randint(4, (count, 2), generator=generator)
        image = torch.arange(count)
        patches[image, rows[:, 0], columns[:, 0]] = cross
        patches[image, rows[:, 1], columns[:, 1]] = square
        pixels = patches.permute(0, 1, 3, 2, 4).reshape(count, 1, 8, 8)
        return pixels, (columns[:, 0] > columns[:, 1]).long()

    return Images("left of", *draw(train), *draw(test), ("left", "right"))


def _fashion_files() -> list[Path]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [FASHION_MNIST / f"{part}-ubyte.gz" for part in parts]


@functools.cache
def _fashion_mnist() -> Images:
    train, train_labels, test, test_labels = (torch.from_numpy(read_idx(file)) for file in _fashion_files())
    train, test = (pixels.float().div(127.5).sub(1)[:, None] for pixels in (train, test))
    return Images("fashion_mnist", train, train_labels.long(), test, test_labels.long(), CLOTHES)


def read_idx(file: Path) -> np.ndarray:
    """The array of bytes in a gzipped idx file: its rank in the fourth byte, its sizes as big-endian 32-bit numbers.

    Raises ``ValueError`` for a file that is something else, or that breaks off.
    """
    content = gzip.decompress(file.read_bytes())
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{file} is no idx file of unsigned bytes.")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int)
    if len(content) != start + shape.prod():
        raise ValueError(
            f"{file} should hold {shape.prod():,} bytes after its header, and holds {len(content) - start:,}."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


_READERS = {"digits": _digits, "fashion_mnist": _fashion_mnist}
