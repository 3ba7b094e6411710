from __future__ import annotations

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic
from mudata import MuData
from scipy import sparse

from cantata import pp
from cantata.pp._pairing_report import choose_model

FORMATS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.array}


def _naive_counts(mdata, batch):
    found = {}
    for cell in mdata.obs_names:
        has = tuple(m for m in mdata.mod if cell in set(mdata[m].obs_names))
        key = f"{has[0]} only" if len(has) == 1 else " + ".join(has)
        for m in has:
            where = batch and mdata[m].obs.loc[cell, batch]
        found[key, where or "cells"] = found.get((key, where or "cells"), 0) + 1
    return found


@pytest.mark.parametrize("pairing", ["full", "partial", "none"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_counts_equal_a_loop_over_cells(make, pairing, batch_key):
    mdata = make(pairing)
    report = pp.pairing_report(mdata, batch_key=batch_key)
    expected = _naive_counts(mdata, batch_key)
    assert {(p, b): n for (p, b), n in report.counts.stack().items() if n} == expected
    assert report.n_obs == {m: mdata[m].n_obs for m in mdata.mod}
    assert report.counts.to_numpy().sum() == mdata.n_obs


@pytest.mark.parametrize(
    ("pairing", "model", "alternative", "number"),
    [
        ("full", "CLUE", "APOLLO", "All 120 cells"),
        ("partial", "CLUE", None, "of 120 cells"),
        ("none", "SCMODAL", None, "None of the 120 cells"),
    ],
)
def test_model_and_reason(make, pairing, model, alternative, number):
    report = pp.pairing_report(make(pairing))
    assert (report.model, report.alternative) == (model, alternative)
    assert number in report.reason


def test_one_modality_needs_no_model(make):
    report = pp.pairing_report(MuData({"rna": make("full")["rna"]}))
    assert report.model is None
    assert "only 'rna'" in report.reason


def test_groups_without_a_common_cell_are_named():
    member = np.array([[1, 1, 0, 0]] * 100 + [[0, 0, 1, 1]] * 80 + [[0, 0, 1, 0]] * 20, dtype=bool)
    model, alternative, reason = choose_model(member, ["rna", "adt", "atac", "cytof"])
    assert (model, alternative) == ("CLUE", "SCMODAL")
    assert "rna + adt; atac + cytof" in reason
    assert "180 of 200 cells (90.0%)" in reason


@pytest.mark.parametrize(
    ("n_pairs", "model", "alternative"),
    [(0, "SCMODAL", None), (1, "SCMODAL", "CLUE"), (49, "SCMODAL", "CLUE"), (50, "CLUE", None)],
)
def test_clue_wants_pairs(n_pairs, model, alternative):
    member = np.array([[1, 1]] * n_pairs + [[1, 0]] * 200 + [[0, 1]] * 200, dtype=bool)
    assert choose_model(member, ["rna", "adt"])[:2] == (model, alternative)


def test_few_pairs_connect_no_group():
    member = np.array([[1, 1, 0]] * 300 + [[0, 1, 1]] * 20 + [[0, 0, 1]] * 300, dtype=bool)
    model, alternative, reason = choose_model(member, ["rna", "adt", "atac"])
    assert (model, alternative) == ("CLUE", "SCMODAL")
    assert "fewer than 50 cells connect these groups of modalities: rna + adt; atac" in reason
    # a few cells with every modality are what they are
    assert choose_model(np.ones((20, 2), dtype=bool), ["rna", "adt"])[0] == "CLUE"


def two(names, others, n_groups=3, seed=0):
    """RNA and proteins of cells with these names; cells in the same place are of one type."""
    rng = np.random.default_rng(seed)
    parts = {}
    for name, cells, width in (("rna", names, 40), ("adt", others, 12)):
        rate = rng.gamma(0.5, 4.0, (n_groups, width))[np.arange(len(cells)) % n_groups]
        counts = rng.poisson(rate + 0.5).astype(np.float32)
        parts[name] = AnnData(counts, obs=pd.DataFrame(index=pd.Index(list(cells))))
        parts[name].var_names = [f"{name}{j}" for j in range(width)]
    return mosaic(parts)


def barcodes(n, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), 16)) for _ in range(n)]


def follow(note, mdata, start):
    """Run the lines that a note ends with."""
    space = {"mdata": mdata, "mudata": mudata}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(note[note.index(start) :].removesuffix("."), space)
    return space["mdata"]


def test_names_that_coincide_are_suspected():
    """3 shared names among 297 cells."""
    codes = barcodes(297)
    mdata = two(codes[:150], codes[147:])
    report = pp.pairing_report(mdata)
    assert (report.model, report.alternative) == ("SCMODAL", "CLUE")
    (note,) = report.notes
    assert "Only 3 of 150 cells of rna and 150 of adt share a name" in note
    apart = pp.pairing_report(follow(note, mdata, "mdata["))
    assert (apart.model, apart.alternative, apart.notes) == ("SCMODAL", None, ())
    # real pairs are not suspected, however few of all cells they are
    assert pp.pairing_report(two(codes[:150], codes[120:])).notes == ()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.removesuffix("-1"), "suffix"),
        (lambda c: c.replace("-1", "-2"), "suffix"),
        (lambda c: c + "_adt", "suffix"),
        (lambda c: "adt_" + c, "prefix"),
        (lambda c: "s1#" + c, "prefix"),
    ],
    ids=["without", "other number", "longer", "word in front", "sample in front"],
)
def test_names_that_nearly_match(change, part):
    cells = [f"{code}-1" for code in barcodes(160)]
    mdata = two(cells, [change(c) for c in cells[:120]])
    report = pp.pairing_report(mdata)
    assert report.model == "SCMODAL"
    (note,) = report.notes
    assert f"differ by a {part}" in note
    assert "0 match, 120 would without it" in note
    renamed = pp.pairing_report(follow(note, mdata, "for m"))
    assert renamed.pairs["cells"].item() == 120
    assert renamed.model == "CLUE"
    assert renamed.notes == ()


def test_names_that_differ_otherwise_are_left_alone():
    codes = barcodes(240)
    unpaired = two([f"{c}-1" for c in codes[:120]], [f"{c}-2" for c in codes[118:]])
    assert pp.pairing_report(unpaired).notes == ()
    numbered = two([f"rna_{i}" for i in range(120)], [f"adt_{i}" for i in range(120)])
    assert pp.pairing_report(numbered).notes == ()
    # a suffix that tells lanes apart cannot be cut
    lanes = [f"{c}-{lane}" for c in codes[:60] for lane in (1, 2)]
    assert pp.pairing_report(two(lanes, codes[:60])).notes == ()


def test_pairs_are_compared_with_shuffled_cells():
    right = pp.pairing_report(two(barcodes(300), barcodes(300)))
    assert (right.model, right.alternative, right.notes) == ("CLUE", "APOLLO", ())
    assert right.pairs["p"].item() <= 0.05
    assert "agree better than shuffled cells" in repr(right)
    names = np.array([str(i) for i in range(300)])
    mdata = two(names, names)
    adt = mdata["adt"][np.random.default_rng(1).permutation(300)].copy()
    adt.obs_names = names
    report = pp.pairing_report(mosaic({"rna": mdata["rna"], "adt": adt}))
    assert (report.model, report.alternative) == ("SCMODAL", "CLUE")
    assert report.pairs["p"].item() > 0.05
    assert "rna + adt agree no better than shuffled cells" in report.reason
    assert "agree no better than shuffled cells" in repr(report)
    assert "named by numbers of rows" in report.notes[0]
    few = pp.pairing_report(two(barcodes(99), barcodes(99)))
    assert np.isnan(few.pairs["p"].item())
    assert "not checked" in repr(few)


def test_pairs_that_only_share_a_batch_are_no_pairs():
    within = []
    for seed in range(6):
        mdata = two(barcodes(400), barcodes(400), n_groups=2, seed=seed)
        assert pp.pairing_report(mdata).pairs["p"].item() <= 0.05
        mdata["rna"].obs["lane"] = mdata["adt"].obs["lane"] = [f"l{i % 2}" for i in range(400)]
        within.append(pp.pairing_report(mdata, batch_key="lane").pairs["p"].item())
    assert np.median(within) > 0.1


@pytest.mark.parametrize("fmt", ["csr", "csc", "dense"])
def test_cells_without_counts_are_not_measured(make, fmt):
    mdata = make("full", fmt=fmt)
    x = mdata["rna"].X.toarray() if fmt != "dense" else mdata["rna"].X.copy()
    empty = mdata["rna"].obs_names[:36]
    x[:36] = 0
    mdata["rna"].X = FORMATS[fmt](x)
    report = pp.pairing_report(mdata)
    assert report.n_empty == {"rna": 36, "adt": 0, "atac": 0}
    assert report.counts.loc["adt + atac", "cells"] == 36
    assert report.counts.loc["rna + adt + atac", "cells"] == 84
    assert "36 of 120 cells of rna have no counts" in report.notes[0]
    smaller = pp.drop_empty(mdata)
    assert not smaller["rna"].obs_names.isin(empty).any()
    pd.testing.assert_frame_equal(pp.pairing_report(smaller).counts, report.counts)
    assert not pp.pairing_report(smaller).notes[0].startswith("36")


def test_hashtags_are_named(make):
    mdata = make("full")
    mdata["adt"].var_names = [*mdata["adt"].var_names[:11], "Hashtag_1", "TotalSeqB-HTO2", "HTO-3"]
    mdata.update()
    note = next(n for n in pp.pairing_report(mdata).notes if "hashtags" in n)
    assert "3 of 14 features of 'adt'" in note
    with pytest.warns(UserWarning, match="3 of 14 features of 'adt' look like hashtags") as caught:
        pp.preprocess(mdata.copy(), n_components=5)
    assert __file__ in {w.filename for w in caught}
    mdata = follow(note, mdata, "mdata.mod")
    assert mdata["adt"].n_vars == 11
    assert not any("hashtags" in n for n in pp.pairing_report(mdata).notes)


def test_values_on_disk_and_values_that_are_no_counts(make, tmp_path):
    mdata = make("full")
    expected = pp.pairing_report(mdata)
    mdata.write(tmp_path / "full.h5mu")
    backed = mudata.read_h5mu(tmp_path / "full.h5mu", backed=True)
    report = pp.pairing_report(backed)
    pd.testing.assert_frame_equal(report.pairs, expected.pairs)
    pd.testing.assert_frame_equal(report.counts, expected.counts)
    backed.file.close()
    x = np.log1p(mdata["adt"].X.toarray())
    mdata["adt"].X = x - x.mean(axis=0)
    assert pp.pairing_report(mdata).pairs.loc[("rna", "adt"), "p"] <= 0.05
    mdata["adt"].X = np.full(x.shape, np.nan, dtype=np.float32)
    assert np.isnan(pp.pairing_report(mdata).pairs.loc[("rna", "adt"), "p"])


def test_notes_on_row_order_and_feature_names(make):
    notes = " ".join(pp.pairing_report(make("full")).notes)
    assert "rows of rna and adt are in different orders" in notes
    assert "14 feature names occur in both rna and adt" in notes
    cells = [f"c{i}" for i in range(5)]
    mod = {
        name: AnnData(
            np.ones((5, 2), dtype="float32"),
            obs=pd.DataFrame(index=cells),
            var=pd.DataFrame(index=[f"{name}0", f"{name}1"]),
        )
        for name in ("rna", "adt")
    }
    assert pp.pairing_report(MuData(mod)).notes == ()


def test_prints_as_text_rich_and_html(make):
    from rich.console import Console

    mdata = make("partial")
    report = pp.pairing_report(mdata, batch_key="batch")
    text = repr(report)
    assert all(str(p) in text for p in report.counts.index)
    assert {"b0", "b1", "all", "CLUE"} <= set(text.split())
    assert str(report.counts["b0"].sum()) in text
    html = report._repr_html_()
    assert "<table" in html
    assert "rna + adt + atac" in html
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report)
    assert "rna + adt + atac" in console.export_text()


def test_names_are_no_markup(make):
    mdata = make("none")
    mdata["rna"].obs["lane"] = "[red]<b>"
    mdata["adt"].obs["lane"] = mdata["atac"].obs["lane"] = "x"
    report = pp.pairing_report(mdata, batch_key="lane")
    assert "[red]<b>" in repr(report)
    assert "<b>" not in report._repr_html_()


def test_nothing_is_modified_and_views_work(make):
    mdata = make("partial")
    before = mdata.obs.copy()
    view = mdata[mdata.obs_names[:30]]
    assert pp.pairing_report(view).counts.to_numpy().sum() == 30
    pd.testing.assert_frame_equal(mdata.obs, before)


def test_cells_without_a_batch_have_a_column(make):
    mdata = make("none")
    mdata["rna"].obs["lane"] = "x"
    counts = pp.pairing_report(mdata, batch_key="lane").counts
    assert counts.loc["rna only", "x"] == 40
    assert counts["(missing)"].sum() == 80


def test_errors(make):
    with pytest.raises(KeyError, match="donor"):
        pp.pairing_report(make(), batch_key="donor")
    with pytest.raises(TypeError, match="AnnData"):
        pp.pairing_report(make()["rna"])


def test_no_warning_is_raised(make):
    mdata = make("partial")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        repr(pp.pairing_report(mdata, batch_key="batch"))
