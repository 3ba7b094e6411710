from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from cantata import pp
from cantata.pp._pairing_report import choose_model


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
    member = np.array([[1, 1, 0, 0]] * 5 + [[0, 0, 1, 1]] * 4 + [[0, 0, 1, 0]], dtype=bool)
    model, alternative, reason = choose_model(member, ["rna", "adt", "atac", "cytof"])
    assert (model, alternative) == ("CLUE", "SCMODAL")
    assert "rna + adt; atac + cytof" in reason
    assert "9 of 10 cells (90.0%)" in reason


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
        warnings.simplefilter("error")
        repr(pp.pairing_report(mdata, batch_key="batch"))
