"""Batches are a pure function of the step; augmentation keeps what the label says."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.data import Images, TrainingStream, statistics


def numbered(count: int, *, size: int = 4) -> Images:
    """Images in which image i is filled with i, and labelled i."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, size, size)
    return Images(
        pixels=pixels.contiguous(),
        labels=torch.arange(count),
        mean=(0.0,),
        std=(1 / 255,),  # normalised pixels are the bytes themselves
        name="numbered",
    )


@given(
    count=st.integers(2, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    step=st.integers(0, 500),
)
def test_a_batch_depends_on_nothing_but_the_step(
    count: int, batch_size: int, seed: int, step: int
) -> None:
    images = numbered(count)
    used = TrainingStream(images=images, batch_size=batch_size, seed=seed, pad=1, flip=True)
    for other in (step + 1, 0, 7):
        used.batch(other)
    fresh = TrainingStream(images=images, batch_size=batch_size, seed=seed, pad=1, flip=True)
    state = torch.random.get_rng_state()
    for left, right in zip(used.batch(step), fresh.batch(step), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was moved"


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), epoch=st.integers(0, 9))
def test_an_epoch_shows_no_image_twice(count: int, batch_size: int, epoch: int) -> None:
    stream = TrainingStream(images=numbered(count), batch_size=batch_size, seed=3)
    first = epoch * stream.steps_per_epoch
    labels = torch.cat([stream.batch(first + i)[1] for i in range(stream.steps_per_epoch)])
    assert len(labels.unique()) == len(labels)
    assert len(labels) == (count // batch_size * batch_size or count)


def test_an_epoch_of_whole_batches_is_a_permutation_and_the_next_is_another() -> None:
    stream = TrainingStream(images=numbered(50), batch_size=10, seed=0)
    epochs = [torch.cat([stream.batch(5 * e + i)[1] for i in range(5)]) for e in range(3)]
    for labels in epochs:
        assert sorted(labels.tolist()) == list(range(50))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_seeds_make_different_streams() -> None:
    images = numbered(50)
    one, two = (
        TrainingStream(images=images, batch_size=50, seed=seed).batch(0)[1] for seed in (0, 1)
    )
    assert not torch.equal(one, two)


def test_images_and_labels_stay_together_under_augmentation() -> None:
    stream = TrainingStream(images=numbered(40), batch_size=20, seed=5, pad=1, flip=True)
    for step in range(6):
        inputs, targets = stream.batch(step)
        assert torch.equal(inputs.amax((1, 2, 3)).round().long(), targets)


def test_flips_mirror_about_half_of_the_images_left_to_right() -> None:
    pixels = torch.zeros(1000, 1, 2, 3, dtype=torch.uint8)
    pixels[..., 0, :] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    images = Images(
        pixels=pixels, labels=torch.zeros(1000).long(), mean=(0.0,), std=(1 / 255,), name="ramp"
    )
    inputs, _ = TrainingStream(images=images, batch_size=1000, seed=0, flip=True).batch(0)
    rows = inputs.round().long()[:, 0]
    assert torch.equal(rows[:, 1], torch.zeros(1000, 3).long()), "a flip turned images over"
    mirrored = (rows[:, 0] == torch.tensor([3, 2, 1])).all(1)
    assert (mirrored | (rows[:, 0] == torch.tensor([1, 2, 3])).all(1)).all()
    # Within four standard deviations of a fair coin.
    assert abs(mirrored.sum().item() - 500) < 4 * math.sqrt(250)


@pytest.mark.parametrize("pad", [1, 2])
def test_crops_shift_the_padded_image_by_every_offset(pad: int) -> None:
    size = 5
    image = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, 1, size, size)
    images = Images(
        pixels=image.expand(600, 1, size, size).contiguous(),
        labels=torch.zeros(600).long(),
        mean=(0.0,),
        std=(1 / 255,),
        name="grid",
    )
    inputs, _ = TrainingStream(images=images, batch_size=600, seed=0, pad=pad).batch(0)
    padded = torch.zeros(size + 2 * pad, size + 2 * pad)
    padded[pad:-pad, pad:-pad] = image[0, 0].float()
    offsets = range(2 * pad + 1)
    crops = {
        tuple(padded[top : top + size, left : left + size].flatten().tolist())
        for top in offsets
        for left in offsets
    }
    found = {tuple(one.flatten().round().tolist()) for one in inputs}
    assert found == crops


def test_head_and_tail_share_out_the_images() -> None:
    images = numbered(10)
    assert images.head(3).labels.tolist() == [0, 1, 2]
    assert images.tail(3).labels.tolist() == list(range(3, 10))
    assert images.head(3).name == "numbered, first 3"
    assert images.head(10).name == "numbered"
    assert len(images.head(99)) == 10


def test_batches_are_in_order_and_the_last_may_be_smaller() -> None:
    sizes, labels = [], []
    for inputs, targets in numbered(10).batches(4):
        sizes.append(len(inputs))
        labels += targets.tolist()
    assert sizes == [4, 4, 2]
    assert labels == list(range(10))


def test_each_channel_is_normalised_by_its_own_figures() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    images = Images(
        pixels=pixels, labels=torch.tensor([0]), mean=(0.0, 0.5, 0.1), std=(1.0, 0.5, 0.2), name="x"
    )
    found = images.normalised(pixels).flatten().tolist()
    assert found == pytest.approx([0.0, 1.0, 0.5])


def test_cutout_hides_one_square_of_each_image_and_nothing_else() -> None:
    pixels = torch.full((64, 1, 12, 12), 200, dtype=torch.uint8)
    images = Images(pixels=pixels, labels=torch.arange(64), mean=(0.5,), std=(0.5,), name="bright")
    plain = TrainingStream(images=images, batch_size=64, seed=3, flip=True)
    cut = dataclasses.replace(plain, cutout=4)
    inputs, targets = cut.batch(0)
    assert torch.equal(targets, plain.batch(0)[1])
    hidden = inputs == 0
    assert torch.equal(inputs[~hidden], plain.batch(0)[0][~hidden])
    for one in hidden[:, 0]:
        rows, columns = one.any(1), one.any(0)
        assert one.sum() == rows.sum() * columns.sum()  # a rectangle, cut off at the border
        assert 2 <= rows.sum() <= 4
        assert 2 <= columns.sum() <= 4
    assert hidden.any(0).float().mean() > 0.95  # at any place


def test_statistics_are_those_of_the_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, 7, 6), generator=generator, dtype=torch.uint8)
    pixels[:, 2] = 9
    mean, std = statistics(pixels)
    scaled = pixels.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist())
    expected = scaled.std((0, 2, 3), correction=0).tolist()
    assert std == pytest.approx([*expected[:2], 1.0])  # a constant channel is left at zero
