"""Warnings of preprocessing point at the line that the user wrote."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic

from cantata import pp

if TYPE_CHECKING:
    import mudata


def data() -> mudata.MuData:
    rng = np.random.default_rng(0)
    features = {
        "rna": [f"F{j}" for j in range(20)],
        "adt": [*[f"F{j}" for j in range(18)], "Hashtag_1", "x-HLA-DR-x"],
        "atac": [f"chr1:{j}00-{j}50" for j in range(1, 21)],
    }
    parts = {}
    for name, names in features.items():
        parts[name] = AnnData(rng.poisson(60.0, (80, len(names))).astype(np.float32))
        parts[name].obs_names = [f"c{i}" for i in range(80)]
        parts[name].var_names = names
    parts["rna"].var_names = [*features["rna"][:19], "HLA-DRA"]
    return mosaic(parts)


GENES = pd.DataFrame(
    {"gene": ["F0", "F1"], "chrom": "chr1", "start": [100, 300], "end": [200, 400], "strand": "+"}
)
LINKS = pd.DataFrame({"source": [*[f"F{j}" for j in range(12)], "nil"]})
LINKS["target"] = LINKS["source"]
PEAKS = pd.DataFrame({"gene": ["F0", "nil"], "peak": "chr1:100-150"})


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("pp.peak_gene_links(mdata, links=PEAKS)", "1 of 2 links name"),
        ("pp.gene_activity(mdata, links=PEAKS, key_added=None)", "1 of 2 links name"),
        ("pp.peak_gene_links(mdata, annotation=GENES)", "18 of 20 features"),
        ("pp.gene_activity(mdata, annotation=GENES, key_added=None)", "18 of 20 features"),
        ("pp.link_features(mdata, 'rna', 'adt', LINKS)", "1 of 13 rows"),
        ("pp.link_features(mdata, 'rna', 'adt', LINKS[:3])", r"only 3 link\(s\)"),
        ("pp.link_features(mdata, 'rna', 'adt')", "look like known markers"),
        ("pp.link_features(mdata, 'rna', 'adt')", "agree no better than shuffled ones"),
        ("pp.link_features(mdata, 'rna', 'adt')", "pairs may be wrong"),
        ("pp.link_features(halves(mdata), 'rna', 'adt')", "are no counts"),
        ("pp.suggest_links(halves(mdata), 'rna', 'adt', n_repeats=1)", "are no counts"),
        ("pp.suggest_links(mdata, 'rna', 'adt', known=LINKS, n_repeats=1)", "1 of 13 rows"),
        ("pp.preprocess(mdata, n_components=3)", "look like hashtags"),
        ("pp.drop_empty(emptied(mdata))", "counts in no modality"),
    ],
)
def test_warnings_point_at_the_users_line(code, match):
    def halves(mdata):
        mdata["adt"].X = mdata["adt"].X + 0.5
        return mdata

    def emptied(mdata):
        for adata in mdata.mod.values():
            adata.X[0] = 0
        return mdata

    space = {"pp": pp, "mdata": data(), "GENES": GENES, "LINKS": LINKS, "PEAKS": PEAKS}
    space |= {"halves": halves, "emptied": emptied}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(code, "written_by_the_user.py", "exec"), space)
    assert any(re.search(match, str(warning.message)) for warning in caught)
    of_cantata = [
        w
        for w in caught
        if w.category is UserWarning and "var_names are not unique" not in str(w.message)
    ]
    assert {w.filename for w in of_cantata} == {"written_by_the_user.py"}
