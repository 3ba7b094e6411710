from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from cantata import pl


def _heights(ax):
    """Height of each bar segment by place and label."""
    return {
        (i, group.get_label()): bar.get_height()
        for group in ax.containers
        for i, bar in enumerate(group)
    }


def test_bars_are_the_numbers_of_cells(mdata):
    ax = pl.pairing(mdata)
    assert _heights(ax) == {(0, "cells"): 30, (1, "cells"): 30, (2, "cells"): 30}
    dots = next(other for other in ax.figure.axes if other is not ax)
    assert [t.get_text() for t in dots.get_yticklabels()] == ["rna (60 cells)", "adt (60 cells)"]
    assert ax.get_legend() is None


def test_colours_are_batches(mdata):
    ax = pl.pairing(mdata, batch_key="batch")
    numbers = mdata.obs_names.str[4:].astype(int).to_numpy()
    pattern = np.where(numbers < 30, 1, np.where(numbers < 60, 0, 2))
    expected = pd.crosstab(pattern, [f"b{i % 12}" for i in numbers])
    for (place, batch), height in _heights(ax).items():
        assert height == expected.loc[place, batch]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"b{i}" for i in range(12)]


def test_dots_tell_the_modalities(mdata):
    ax = pl.pairing(mdata)
    dots = next(other for other in ax.figure.axes if other is not ax)
    filled = {
        tuple(int(v) for v in c.get_offsets()[0])
        for c in dots.collections
        if tuple(c.get_facecolor()[0][:3]) < (0.5, 0.5, 0.5)
    }
    assert filled == {(0, 0), (0, 1), (1, 0), (2, 1)}


@pytest.mark.parametrize("placed", [True, False])
def test_given_axes_are_used_and_nothing_is_cut_off(mdata, placed):
    if placed:
        figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    else:
        figure = plt.figure()
        left, right = figure.add_axes((0.3, 0.3, 0.3, 0.5)), None
    assert pl.pairing(mdata, ax=left) is left
    figure.canvas.draw()
    box = left.figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    if right is not None:
        assert right.get_position().x0 > left.get_position().x1


def test_unknown_batch(mdata):
    with pytest.raises(KeyError, match="donor"):
        pl.pairing(mdata, batch_key="donor")
