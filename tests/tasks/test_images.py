import gzip

import pytest
import torch

from workbench.tasks import images


def test_digits():
    digits = images.load("digits")
    assert digits.train.shape == (1437, 1, 8, 8) and digits.test.shape == (360, 1, 8, 8)
    assert digits.train.dtype == torch.float32 and digits.train_labels.dtype == torch.int64
    assert digits.size == 8 and digits.classes == tuple("0123456789")
    for pixels, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels)):
        assert len(pixels) == len(labels)
        assert pixels.min() == -1 and pixels.max() == 1
        assert labels.bincount().min() > 0.07 * len(labels)
    assert images.load() is digits


def test_no_image_is_in_both_parts():
    digits = images.load()
    seen = {tuple(image.flatten().tolist()) for image in digits.train}
    assert len(seen) == len(digits.train)
    assert not any(tuple(image.flatten().tolist()) in seen for image in digits.test)


def test_left_of_is_told_by_places_alone():
    marks = images.left_of(train=300, test=50)
    assert marks.train.shape == (300, 1, 8, 8) and marks.test.shape == (50, 1, 8, 8)
    assert set(marks.train_labels.tolist()) == {0, 1} and 100 < marks.train_labels.sum() < 200
    patches = marks.train.unfold(2, 2, 2).unfold(3, 2, 2)[:, 0]  # (images, rows, columns, 2, 2)
    is_square = (patches == 1).all(-1).all(-1)
    is_cross = (patches == torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).all(-1).all(-1)
    assert (is_square.sum((1, 2)) == 1).all() and (is_cross.sum((1, 2)) == 1).all()
    column = [mark.any(1).int().argmax(1) for mark in (is_cross, is_square)]
    assert torch.equal((column[0] > column[1]).long(), marks.train_labels)


def write_idx(file, shape, numbers):
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    file.write_bytes(gzip.compress(header + bytes(numbers)))


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """Three images to train on and two to test, in files as Debian's package has them."""
    monkeypatch.setattr(images, "FASHION_MNIST", tmp_path)
    for part, count in (("train", 3), ("t10k", 2)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", (count, 28, 28), [0, 255] * (count * 28 * 14))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", (count,), range(count))
    images._fashion_mnist.cache_clear()
    yield tmp_path
    images._fashion_mnist.cache_clear()


def test_fashion_mnist(clothes):
    assert images.names() == ("digits", "fashion_mnist")
    loaded = images.load("fashion_mnist")
    assert loaded.train.shape == (3, 1, 28, 28) and loaded.test.shape == (2, 1, 28, 28)
    assert loaded.train.unique().tolist() == [-1, 1]
    assert loaded.train[0, 0, 0, :3].tolist() == [-1, 1, -1]
    assert loaded.test_labels.tolist() == [0, 1]
    assert loaded.size == 28 and len(loaded.classes) == 10


def test_a_file_that_breaks_off(clothes):
    write_idx(clothes / "train-labels-idx1-ubyte.gz", (3,), range(2))
    with pytest.raises(ValueError, match="should hold 3 bytes after its header, and holds 2"):
        images.load("fashion_mnist")


def test_a_file_of_something_else(clothes):
    (clothes / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"labels"))
    with pytest.raises(ValueError, match="no idx file"):
        images.load("fashion_mnist")


def test_a_set_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "FASHION_MNIST", tmp_path)
    assert images.names() == ("digits",)
    assert images.why_not("digits") == []
    (reason,) = images.why_not("fashion_mnist")
    assert "dataset-fashion-mnist" in reason
    with pytest.raises(ValueError, match="dataset-fashion-mnist"):
        images.load("fashion_mnist")


def test_an_unknown_set():
    assert "choose 'digits' or 'fashion_mnist'" in images.why_not("cifar")[0]
    with pytest.raises(ValueError, match="'cifar'.*choose"):
        images.load("cifar")
