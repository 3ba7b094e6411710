from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from cantata._mudata.kinds import guess_kind, resolve_kinds


def _adata(n_vars, names=None, types=None):
    var = pd.DataFrame(index=names or [f"f{j}" for j in range(n_vars)])
    if types is not None:
        var["feature_types"] = types
    return AnnData(np.ones((3, n_vars), dtype="float32"), var=var)


@pytest.mark.parametrize(
    ("name", "adata", "kind"),
    [
        ("rna", _adata(5), "rna"),
        ("GEX_day2", _adata(5), "rna"),
        ("adt", _adata(500), "protein"),
        ("prot", _adata(5), "protein"),
        ("snATAC", _adata(5), "atac"),
        ("a", _adata(400, types="Gene Expression"), "rna"),
        ("rna", _adata(5, types="Antibody Capture"), "protein"),
        ("x", _adata(400, [f"chr1:{j}-{j + 9}" for j in range(400)]), "atac"),
        ("x", _adata(3, ["chrX-10-20", "chrX-30-40", "GL45_1_2"]), "atac"),
        ("x", _adata(20), "protein"),
    ],
)
def test_guess(name, adata, kind):
    assert guess_kind(name, adata)[0] == kind


def test_unknown_is_an_error():
    with pytest.raises(ValueError, match=r"modality 'x' with 400 features.*modalities="):
        guess_kind("x", _adata(400))


def test_guesses_are_logged_and_given_kinds_are_kept(caplog):
    mdata = MuData({"rna": _adata(4), "spam": _adata(6)})
    with caplog.at_level(logging.INFO, logger="cantata"):
        assert resolve_kinds(mdata, None) == {"rna": "rna", "spam": "protein"}
    assert "'spam' is taken as protein (it has only 6 features)" in caplog.text
    assert resolve_kinds(mdata, {"spam": "adt"}) == {"spam": "protein"}


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ({"spam": "image"}, ValueError, "kinds are"),
        ({"egg": "rna"}, KeyError, "egg"),
        (["rna"], TypeError, "dict"),
    ],
)
def test_errors(value, error, match):
    with pytest.raises(error, match=match):
        resolve_kinds(MuData({"rna": _adata(4), "spam": _adata(6)}), value)
