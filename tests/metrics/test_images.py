"""Agreement of images beside loops."""

from __future__ import annotations

import numpy as np
import pytest
from image_mosaics import of_images
from mudata import MuData

from cantata.metrics import image_agreement


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    real = np.clip(rng.random((7, 16, 16)) - 0.4, 0, 1)
    return np.clip(real + 0.3 * rng.random(real.shape), 0, 1), real


def test_scores_are_those_of_loops(pair) -> None:
    predicted, real = pair
    mean = real[:3].mean(axis=0)
    found = image_agreement(predicted, real, mean_image=mean)
    for i in range(7):
        p, r = predicted[i].ravel(), real[i].ravel()
        assert found["pearson"][i] == pytest.approx(np.corrcoef(p, r)[0, 1])
        mode = np.histogram(r, bins=256, range=(0, 1))[0].argmax() / 256
        total = sum(
            abs((x if x > mode else 0) - (y if y > mode else 0)) for x, y in zip(p, r, strict=True)
        )
        assert found["l1"][i] == pytest.approx(total / 256)
        error = ((p - r) ** 2).sum() / ((mean.ravel() - r) ** 2).sum()
        assert found["r2"][i] == pytest.approx(1 - error)
        distances = [((p - other.ravel()) ** 2).sum() for other in real]
        assert found["rank"][i] == sum(d <= distances[i] for d in distances)


def test_cells_are_found_by_name(pair) -> None:
    predicted, real = pair
    names = [f"c{i}" for i in range(7)]
    expected = image_agreement(predicted, real)
    real_cells = of_images(np.stack([real, real * 0.5], axis=1), ["a", "b"], names)
    some = of_images(predicted[[4, 1], None], ["a"], ["c4", "c1"])
    found = image_agreement(some, real_cells[::-1].copy(), stain="a")
    assert list(found.index) == ["c4", "c1"]
    assert found["pearson"].to_numpy() == pytest.approx(expected["pearson"][[4, 1]])
    with pytest.raises(ValueError, match="name one"):
        image_agreement(some, real_cells)
    with pytest.raises(KeyError, match="stain='c'"):
        image_agreement(some, real_cells, stain="c")
    with pytest.raises(KeyError, match="'c9'"):
        image_agreement(of_images(predicted[:1, None], ["a"], ["c9"]), real_cells, stain="a")


def test_images_of_one_value_and_of_other_shapes(pair) -> None:
    predicted, real = pair
    predicted[2] = 0.5
    assert np.isnan(image_agreement(predicted, real)["pearson"][2])
    with pytest.raises(ValueError, match="differ in shape"):
        image_agreement(predicted[:3], real)
    with pytest.raises(ValueError, match=r"give \(cells, side, side\)"):
        image_agreement(predicted[0], real)


def test_the_mean_image_is_in_the_units_of_the_model(pair) -> None:
    """Of an AnnData integers are scaled; plain numbers of a camera are refused."""
    predicted, real = pair
    names = [f"c{i}" for i in range(len(real))]
    camera = (real * 60_000).astype(np.uint16)
    cells = of_images(camera[:, None], ["a"], names)
    guess = of_images(predicted[:, None].astype(np.float32), ["a"], names)
    found = image_agreement(guess, cells, mean_image=cells)
    low, high = np.percentile(camera, [0.5, 99.9])
    scaled = np.clip((camera - low) / (high - low), 0, 1)
    expected = image_agreement(guess, cells, mean_image=scaled.mean(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    for given in ({"mean_image": camera.mean(axis=0)}, {}):
        with pytest.raises(ValueError, match=r"compared in\s+\[0, 1\]"):
            image_agreement(guess, cells if given else camera, **given)


def test_what_cannot_be_compared(pair) -> None:
    predicted, real = pair
    names = [f"c{i}" for i in range(len(real))]
    one, other = (of_images(x[:, None], [s], names) for x, s in ((predicted, "a"), (real, "b")))
    with pytest.raises(ValueError, match="predicted stain is 'a', the real one 'b'"):
        image_agreement(one, other)
    with pytest.raises(KeyError, match=r"5 of 7 predicted cells have no real image, e.g. 'c2'"):
        image_agreement(one, one[:2])
    with pytest.raises(TypeError, match="one modality of the MuData"):
        image_agreement(one, MuData({"a": one}))
