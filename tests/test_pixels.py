"""The stores of pixels: whatever their kind, they give the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tintype.data.pixels import MappedPixels, PixelStore, ResidentPixels
from tintype.data.source import DataSpec, StoredSource
from tintype.data.targets import Classes

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(params=["resident", "mapped"])
def store(request: pytest.FixtureRequest, tmp_path) -> PixelStore:
    if request.param == "resident":
        return ResidentPixels(torch.from_numpy(IMAGES))
    IMAGES.tofile(tmp_path / "pixels")
    return MappedPixels(np.memmap(tmp_path / "pixels", np.uint8, "r", shape=IMAGES.shape))


def test_a_store_gives_the_images_at_the_positions_asked_for(store):
    index = torch.tensor([5, 0, 5])
    taken = store.take(index)
    assert np.array_equal(taken.permute(0, 2, 3, 1).numpy(), IMAGES[[5, 0, 5]])
    assert taken.is_contiguous(memory_format=torch.channels_last)
    assert (store.shape, store.dtype, store.device.type) == (IMAGES.shape, torch.uint8, "cpu")


def test_a_part_of_a_part_is_counted_from_its_own_first_image(store):
    part = store.subset(torch.tensor([6, 4, 2])).subset(torch.tensor([2, 0]))
    assert part.shape == (2, 4, 5, 3)
    assert np.array_equal(part.take(torch.tensor([1])).permute(0, 2, 3, 1).numpy(), IMAGES[[6]])
    assert np.shares_memory(part.pixels, store.pixels)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_size_that_is_not_stored_is_refused(store):
    assert len(store.take(torch.tensor([1]), (4, 5))) == 1
    with pytest.raises(ValueError, match="stored at 4x5"):
        store.take(torch.tensor([1]), (8, 8))


def test_a_source_keeps_images_targets_and_names_together(store):
    spec = DataSpec("", 3, 4, 5, Classes(("a", "b")), (0.5,) * 3, (0.5,) * 3, "")
    source = StoredSource(spec, store, torch.arange(7), list("abcdefg"))
    part = source.subset(np.array([3, 1]))
    batch = part.take(torch.tensor([1, 0]))
    assert batch.targets.tolist() == [1, 3]
    assert list(part.names) == ["d", "b"]
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), IMAGES[[1, 3]])
