from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic

from cantata import pp


@pytest.fixture
def linked():
    rng = np.random.default_rng(0)
    names = {
        "rna": ["CD4", "MS4A1", "PTPRC", "ACTB"],
        "adt": ["CD45RA", "CD4", "CD20"],
        "cytof": ["CD4", "CD20", "CD45RA", "Ir191"],
    }
    parts = {}
    for name, features in names.items():
        parts[name] = AnnData(rng.poisson(3.0, (30, len(features))).astype(np.float32))
        parts[name].obs_names = [f"{name}{i}" for i in range(30)]
        parts[name].var_names = features
    mdata = mosaic(parts)
    links = pd.DataFrame(
        {
            "source": ["CD4", "MS4A1", "PTPRC"],
            "target": ["CD4", "CD20", "CD45RA"],
            "weight": [0.5, 1.0, 1.0],
        }
    )
    pp.link_features(mdata, "rna", "adt", links)
    pp.link_features(mdata, "cytof", "adt")
    return mdata


def test_table_of_a_pair(linked):
    table = pp.link_table(linked, "rna", "adt")
    assert table.columns.tolist() == [
        "source",
        "target",
        "weight",
        "sign",
        "type",
        "source_modality",
        "target_modality",
    ]
    assert table["source"].tolist() == ["rna:CD4", "MS4A1", "PTPRC"]
    assert table["target"].tolist() == ["adt:CD4", "CD20", "CD45RA"]
    assert table["weight"].tolist() == [0.5, 1.0, 1.0]
    assert table["sign"].tolist() == [1, 1, 1]
    turned = pp.link_table(linked, "adt", "rna")
    assert turned["source"].tolist() == table["target"].tolist()
    assert set(turned["source_modality"]) == {"adt"}


def test_table_of_several_pairs(linked):
    table = pp.link_table(linked)
    assert len(table) == 6
    assert "adt:CD20" in set(table["target"])  # a name of cytof as well
    of_adt = pp.link_table(linked, "adt")
    assert set(of_adt["source_modality"]) == {"adt"}
    assert set(of_adt["target_modality"]) == {"rna", "cytof"}
    pd.testing.assert_frame_equal(
        pp.link_table(linked, "cytof"), pp.link_table(linked, "cytof", "adt")
    )


def test_complete_table_is_a_guidance_graph(linked):
    table = pp.link_table(linked, "rna", "adt", complete=True)
    edges = {(row.source, row.target): row for row in table.itertuples()}
    assert len(edges) == len(table) == 3 * 2 + 4 + 3
    features = {"rna:CD4", "MS4A1", "PTPRC", "ACTB", "CD45RA", "adt:CD4", "CD20"}
    assert {(name, name) for name in features} <= set(edges)
    for (source, target), row in edges.items():
        assert edges[target, source].weight == row.weight
        assert 0 < row.weight <= 1
        assert row.sign == 1


def test_what_is_not_there(linked):
    with pytest.raises(KeyError, match="a='nil' is no modality"):
        pp.link_table(linked, "nil")
    with pytest.raises(KeyError, match=r"No links of 'rna' and 'cytof'.*'rna' and 'adt'"):
        pp.link_table(linked, "rna", "cytof")
    with pytest.raises(ValueError, match="without a"):
        pp.link_table(linked, b="rna")
    del linked.uns["cantata"]
    with pytest.raises(KeyError, match="there are none"):
        pp.link_table(linked)
