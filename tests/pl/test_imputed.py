from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from mosaics import mosaic
from scipy import sparse
from scipy.stats import spearmanr

from cantata import pl
from cantata.pl._axes import MISSING_COLOR

N = 60
PEAKS = ["chr1:10000-10500", "chr1:2000-2500", "chr1:29000-29500", "chr1:31001-32000", "chr2:1-9"]
"""The gene spans 12,000 to 19,000 of chr1: the first three lie within 10 kb of it."""


def _parts():
    rng = np.random.default_rng(0)
    for name, cells, p in (("rna", np.arange(40)[::-1], 4), ("atac", np.arange(20, N), 5)):
        counts = rng.poisson(3, (len(cells), p)).astype(np.float32)
        adata = AnnData(sparse.csr_matrix(counts) if name == "atac" else counts)
        adata.obs_names = [f"c{i}" for i in cells]
        yield name, adata


@pytest.fixture
def mdata():
    """Cells 0-39 have RNA, 20-59 ATAC; the imputation is of all cells."""
    parts = dict(_parts())
    parts["rna"].var_names, parts["atac"].var_names = ["Actb", "Gad1", "Reln", "Sox2"], PEAKS
    parts["rna"].var["chrom"] = ["chr3", "chr3", "chr1", "chr9"]
    parts["rna"].var["start"] = [1, 2, 12_000, 4]
    parts["rna"].var["end"] = [9, 9, 19_000, 9]
    out = mosaic(parts)
    number = _numbers(out)
    out.obsm["X_umap"] = np.stack([number, -number], axis=1).astype(np.float32)
    out.obsm["scmodal_imputed_rna"] = np.random.default_rng(1).normal(size=(N, 2))
    out.uns["cantata"] = {"scmodal": {"imputed_features": {"rna": np.array(["Sox2", "Reln"])}}}
    return out


def _numbers(mdata):
    return mdata.obs_names.str[1:].astype(int).to_numpy()


def _drawn(ax):
    """Value of every coloured cell by its number, and the numbers of the grey ones."""
    values, grey = {}, set()
    for c in ax.collections:
        cells = np.asarray(c.get_offsets())[:, 0].astype(int).tolist()
        if c.get_array() is None:
            assert not cells or to_hex(c.get_facecolors()[0]) == MISSING_COLOR
            grey |= set(cells)
        else:
            values |= dict(zip(cells, np.asarray(c.get_array()).tolist(), strict=True))
    return values, grey


def _expected(mdata, modality, features):
    """log(1 + counts per 10,000) of a sum of features, by the number of the cell."""
    adata = mdata[modality]
    x = pd.DataFrame(
        adata.X.toarray() if sparse.issparse(adata.X) else adata.X,
        [int(name[1:]) for name in adata.obs_names],
        adata.var_names,
    ).astype(float)
    return np.log1p(1e4 * x[features].sum(axis=1) / x.sum(axis=1)).to_dict()


def _rho(first, second):
    both = sorted(set(first) & set(second))
    return spearmanr([first[i] for i in both], [second[i] for i in both]).statistic, len(both)


def test_panels_show_what_their_titles_say(mdata):
    measured, inferred, peaks = pl.imputed(mdata, "Reln")
    expected = {
        measured: _expected(mdata, "rna", ["Reln"]),
        inferred: {
            i: v
            for i, v in zip(_numbers(mdata), mdata.obsm["scmodal_imputed_rna"][:, 1], strict=True)
            if i >= 20
        },
        peaks: _expected(mdata, "atac", PEAKS[:3]),
    }
    for ax, values in expected.items():
        drawn, grey = _drawn(ax)
        assert drawn == pytest.approx(values)
        assert grey == set(range(N)) - set(values)
        rho, n = _rho(values, expected[inferred])
        if ax is not inferred:
            assert ax.get_title().endswith(f"\nρ = {rho:.2f} with imputed ({n} cells)")
    assert [ax.get_title().split("\n")[0] for ax in (measured, inferred, peaks)] == [
        "Reln, measured in rna",
        "Reln, imputed in atac",
        "Reln, 3 peaks within 10 kb",
    ]
    bars = [ax.child_axes[0].get_ylabel() for ax in (measured, inferred, peaks)]
    assert bars == ["log(1 + counts per 10k)", "imputed expression", "log(1 + counts per 10k)"]


def test_distance_of_peaks(mdata):
    for distance, peaks in ((2000, 1), (9500, 2), (10_000, 3), (12_001, 4)):
        panel = pl.imputed(mdata, "Reln", max_distance=distance)[-1]
        drawn, _ = _drawn(panel)
        order = [PEAKS[i] for i in (0, 1, 2, 3)]
        near = [p for p in order if _gap(p) <= distance]
        assert len(near) == peaks
        assert drawn == pytest.approx(_expected(mdata, "atac", near))


def _gap(peak):
    start, end = (int(x) for x in peak.split(":")[1].split("-"))
    return max(12_000 - end, start - 19_000, 0)


def test_named_peaks_and_no_peaks(mdata):
    panel = pl.imputed(mdata, "Sox2", peaks=[PEAKS[4], PEAKS[0]])[-1]
    assert panel.get_title().startswith("Sox2, 2 peaks\n")
    assert _drawn(panel)[0] == pytest.approx(_expected(mdata, "atac", [PEAKS[0], PEAKS[4]]))
    assert len(pl.imputed(mdata, "Sox2", max_distance=None)) == 2


def test_position_from_an_annotation(mdata):
    annotation = pd.DataFrame(
        {"gene": ["Sox2"], "chrom": ["2"], "start": [50], "end": [90], "strand": ["+"]}
    )
    panel = pl.imputed(mdata, "Sox2", annotation=annotation)[-1]
    assert panel.get_title().startswith("Sox2, 1 peak within 10 kb")


def test_given_imputation_of_some_cells_in_another_order(mdata):
    cells = [f"c{i}" for i in range(50, 15, -1)]
    values = AnnData(
        np.arange(35.0)[:, None], pd.DataFrame(index=cells), pd.DataFrame(index=["Gad1"])
    )
    panel = pl.imputed(mdata, "Gad1", imputed=values, max_distance=None)[1]
    drawn, grey = _drawn(panel)
    assert drawn == {i: 50 - i for i in range(20, 51)}
    assert grey == {*range(20), *range(51, N)}


def test_stored_table(mdata):
    stored = mdata.obsm["scmodal_imputed_rna"]
    mdata.obsm["scmodal_imputed_rna"] = pd.DataFrame(stored, mdata.obs_names, ["Reln", "Gad1"])
    drawn, _ = _drawn(pl.imputed(mdata, "Gad1", max_distance=None)[1])
    assert drawn[30] == stored[_numbers(mdata) == 30, 1]


def test_activity_from_a_modality_and_from_anndata(mdata):
    activity = AnnData(np.random.default_rng(3).poisson(2, (40, 2)).astype(float))
    activity.obs_names, activity.var_names = mdata["atac"].obs_names[::-1], ["Reln", "Actb"]
    axes = pl.imputed(mdata, "Reln", activity=activity)
    assert axes[2].get_title().startswith("Reln, gene activity\nρ = ")
    with_modality = mosaic({**mdata.mod, "activity": activity})
    for key in ("X_umap", "scmodal_imputed_rna"):
        with_modality.obsm[key] = np.asarray(
            pd.DataFrame(mdata.obsm[key], mdata.obs_names).loc[with_modality.obs_names]
        )
    with_modality.uns["cantata"] = mdata.uns["cantata"]
    expected = _expected(with_modality, "activity", ["Reln"])
    for panels in (axes, pl.imputed(with_modality, "Reln")):
        assert len(panels) == 4
        assert _drawn(panels[2])[0] == pytest.approx(expected)
    assert len(pl.imputed(with_modality, "Sox2", max_distance=None)) == 2
    with pytest.raises(KeyError, match=r"not in modality 'activity', e.g. 'Sox2'"):
        pl.imputed(with_modality, "Sox2", activity="activity", max_distance=None)


def test_layers_and_values_that_are_no_counts(mdata):
    counts = mdata["rna"].X.copy()
    mdata["rna"].layers["counts"] = counts
    expected = _expected(mdata, "rna", ["Reln"])
    mdata["rna"].X = np.log1p(counts) - 0.5
    for layers, unit in ((None, "log(1 + counts per 10k)"), ({"rna": None}, "value as stored")):
        panel = pl.imputed(mdata, "Reln", layers=layers)[0]
        assert panel.child_axes[0].get_ylabel() == unit
        stored = dict(
            zip([int(c[1:]) for c in mdata["rna"].obs_names], mdata["rna"].X[:, 2], strict=True)
        )
        assert _drawn(panel)[0] == pytest.approx(expected if layers is None else stored)
    with pytest.raises(KeyError, match=r"modality 'rna' has the layers \['counts'\]"):
        pl.imputed(mdata, "Reln", layers={"rna": "raw"})


def test_no_cell_has_both_modalities(mdata):
    apart = mosaic({"rna": mdata["rna"][:15].copy(), "atac": mdata["atac"][25:].copy()})
    apart.obsm["X_umap"] = np.zeros((apart.n_obs, 2)) + _numbers(apart)[:, None]
    values = AnnData(
        np.random.default_rng(0).normal(size=(apart.n_obs, 1)), obs=apart.obs[[]].copy()
    )
    values.var_names = ["Reln"]
    axes = pl.imputed(apart, "Reln", imputed=values)
    assert axes[0].get_title() == "Reln, measured in rna\nno cell has both"
    assert "ρ = " in axes[2].get_title()


def test_constant_values_have_no_correlation(mdata):
    mdata.obsm["scmodal_imputed_rna"][:] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = pl.imputed(mdata, "Reln")
    assert axes[0].get_title().endswith("no correlation (20 cells)")


def test_titles_and_panels_do_not_overlap(mdata):
    with plt.rc_context({"font.size": 12}):
        axes = pl.imputed(mdata, "Reln")
        axes[0].figure.canvas.draw()
        for left, right in itertools.pairwise(axes):
            reach = left.child_axes[0].get_tightbbox().x1
            assert reach <= right.get_tightbbox().x0
            assert left.title.get_window_extent().x1 <= right.title.get_window_extent().x0
        box = axes[0].figure.get_tightbbox()
        assert min(box.x0, box.y0) >= 0
        assert (np.array([box.x1, box.y1]) <= axes[0].figure.get_size_inches()).all()


def test_given_axes(mdata):
    _, given = plt.subplots(1, 3)
    assert pl.imputed(mdata, "Reln", axes=given) == list(given)
    with pytest.raises(ValueError, match="3 axes were given for 2 panels"):
        pl.imputed(mdata, "Reln", max_distance=None, axes=given)


def test_nothing_is_modified(mdata):
    x, keys = mdata["rna"].X.copy(), (set(mdata.obsm), set(mdata.uns))
    columns = list(mdata["rna"].obs), list(mdata["rna"].var), list(mdata.obs)
    pl.imputed(mdata, "Reln")
    np.testing.assert_array_equal(mdata["rna"].X, x)
    assert keys == (set(mdata.obsm), set(mdata.uns))
    assert columns == (list(mdata["rna"].obs), list(mdata["rna"].var), list(mdata.obs))


def test_errors(mdata):
    with pytest.raises(KeyError, match="no modality 'adt'"):
        pl.imputed(mdata, "Reln", target="adt")
    with pytest.raises(KeyError, match=r"not in modality 'rna', e.g. 'Rel'"):
        pl.imputed(mdata, "Rel")
    with pytest.raises(KeyError, match="'Actb' is not among the 2 features"):
        pl.imputed(mdata, "Actb")
    with pytest.raises(KeyError, match=r"clue_imputed_rna.*write_results"):
        pl.imputed(mdata, "Reln", method="clue")
    with pytest.raises(TypeError, match="imputed is a ndarray"):
        pl.imputed(mdata, "Reln", imputed=np.ones((N, 1)))
    strange = AnnData(np.ones((1, 1)), var=pd.DataFrame(index=["Reln"]))
    with pytest.raises(ValueError, match="none of its 1 cells"):
        pl.imputed(mdata, "Reln", imputed=strange)
    with pytest.raises(ValueError, match="No peak of 'atac' lies within 10,000 bp of 'Sox2'"):
        pl.imputed(mdata, "Sox2")
    del mdata["rna"].var["chrom"]
    with pytest.raises(ValueError, match="position of 'Sox2' is not known"):
        pl.imputed(mdata, "Sox2")
    with pytest.raises(KeyError, match=r"1 of 1 features are not in modality 'atac', e.g. 'zz'"):
        pl.imputed(mdata, "Sox2", peaks=["zz"])
    with pytest.raises(KeyError, match="X_pca"):
        pl.imputed(mdata, "Sox2", basis="X_pca")
    mdata.uns["cantata"] = {}
    with pytest.raises(ValueError, match=r"has 2 columns and .* names 0 features"):
        pl.imputed(mdata, "Reln")
