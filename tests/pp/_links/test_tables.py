from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mosaics import mosaic

from cantata.pp._links._tables import links_by_name, links_by_table


def panel(names, genes=None):
    adata = AnnData(np.ones((3, len(names)), dtype=np.float32))
    adata.var_names = names
    if genes is not None:
        adata.var["gene"] = genes
    return adata


def wide(names):
    """A modality with so many features that none of them is taken for a protein."""
    return panel([*names, *(f"gene{i}" for i in range(1000))])


def found(left, right):
    table = links_by_name(mosaic({"rna": left, "adt": right}), "rna", "adt")
    places = table[["source_index", "target_index"]].to_numpy()
    np.testing.assert_array_equal(left.var_names[places[:, 0]], table["source"])
    np.testing.assert_array_equal(right.var_names[places[:, 1]], table["target"])
    assert (table["weight"] == 1).all()
    return set(zip(table["source"], table["target"], table["type"], strict=True))


def test_column_of_a_panel_says_all():
    rna = wide(["CD4", "PTPRC", "MS4A1", "ITGAL", "ITGB2", "CD8A"])
    adt = panel(
        ["CD4", "CD45RA", "CD45RO", "LFA-1", "CD8a", "CD20"],
        ["-", "PTPRC", "PTPRC", "ITGAL/ITGB2", "Cd8a", "no gene"],
    )
    assert found(rna, adt) == {
        ("PTPRC", "CD45RA", "gene"),
        ("PTPRC", "CD45RO", "gene"),
        ("ITGAL", "LFA-1", "gene"),
        ("ITGB2", "LFA-1", "gene"),
        ("CD8A", "CD8a", "gene"),
    }


def test_column_of_the_wide_side():
    rna = wide(["ENSG1", "ENSG2"])
    rna.var["gene"] = ["MS4A1", "CD4", *rna.var_names[2:]]
    adt = panel(["CD20", "CD4", "CD99"])
    assert found(rna, adt) == {("ENSG1", "CD20", "gene"), ("ENSG2", "CD4", "gene")}


def test_names_then_aliases():
    rna = wide(["Cd4", "Cd8a", "Cd8b1", "Ptprc", "Ms4a1"])
    adt = panel(["CD4", "cd8a", "CD8b", "B220", "CD45.2", "CD20", "CD99"])
    assert found(rna, adt) == {
        ("Cd4", "CD4", "name"),
        ("Cd8a", "cd8a", "name"),
        ("Cd8b1", "CD8b", "alias"),
        ("Ptprc", "B220", "alias"),
        ("Ptprc", "CD45.2", "alias"),
        ("Ms4a1", "CD20", "alias"),
    }


def test_separators_of_the_column():
    rna = wide(["CD3D", "CD3E", "CD8A", "CD8B", "ITGAL", "ITGB2"])
    adt = panel(["CD3", "CD8", "LFA-1"], ["CD3E;CD3D", "CD8A, CD8B", "ITGAL | ITGB2"])
    assert found(rna, adt) == {
        ("CD3D", "CD3", "gene"),
        ("CD3E", "CD3", "gene"),
        ("CD8A", "CD8", "gene"),
        ("CD8B", "CD8", "gene"),
        ("ITGAL", "LFA-1", "gene"),
        ("ITGB2", "LFA-1", "gene"),
    }


@pytest.mark.parametrize("blank", ["", np.nan, None, "NaN", "NA", " "])
def test_where_the_column_is_blank_names_count(blank):
    rna = wide(["CD4", "MS4A1", "PTPRC"])
    adt = panel(["CD4", "CD20", "CD45RA", "isotype"], [blank, blank, "PTPRC", blank])
    assert found(rna, adt) == {
        ("CD4", "CD4", "name"),
        ("MS4A1", "CD20", "alias"),
        ("PTPRC", "CD45RA", "gene"),
    }


@pytest.mark.parametrize(
    "prefixes", [("rna:", "adt:"), ("rna:", ""), ("rna_", "adt_"), ("", "adt:")]
)
def test_prefixes_that_make_names_unique(prefixes):
    rna = panel(
        [f"{prefixes[0]}{name}" for name in ["CD4", "MS4A1", *(f"g{i}" for i in range(1000))]]
    )
    adt = panel([f"{prefixes[1]}{name}" for name in ["CD4", "CD20"]])
    table = links_by_name(mosaic({"rna": rna, "adt": adt}), "rna", "adt")
    assert table["type"].tolist() == ["name", "alias"]
    assert table["source_index"].tolist() == table["target_index"].tolist() == [0, 1]
    assert table["source"].tolist() == rna.var_names[:2].tolist()


def test_genes_that_scanpy_made_unique():
    assert found(wide(["CD4-1", "x"]), panel(["CD4"])) == {("CD4-1", "CD4", "name")}
    assert found(wide(["CD4-1", "CD4"]), panel(["CD4"])) == {("CD4", "CD4", "name")}


def test_identifiers_of_genes():
    ids = ["ENSG00000010610", "ENSG00000156738.19", "ENSG00000081237"]
    rna = wide(["CD4", "MS4A1", "PTPRC"])
    # in a column of the panel, where RNA has identifiers: by these
    rna.var["gene_ids"] = [*ids, *(f"ENSG9{i}" for i in range(1000))]
    adt = panel(["a", "b", "CD45"], [ids[0] + ".3", ids[1].split(".")[0], ids[2]])
    pairs = {("CD4", "a", "gene"), ("MS4A1", "b", "gene"), ("PTPRC", "CD45", "gene")}
    assert found(rna, adt) == pairs
    # where it has none, and where only RNA has them in its column: by names
    del rna.var["gene_ids"]
    adt = panel(["CD4", "CD20", "CD45RA"], ids)
    names = {("CD4", "CD4", "name"), ("MS4A1", "CD20", "alias"), ("PTPRC", "CD45RA", "alias")}
    assert found(rna, adt) == names
    rna.var["gene"] = [*ids, *(f"ENSG9{i}" for i in range(1000))]
    del adt.var["gene"]
    assert found(rna, adt) == names


def test_known_markers_without_a_link_are_named():
    rna = wide(["CD4", "HLA-DRA"])
    adt = panel(["CD4", "lot-HLA-DR-x", "CD20", "isotype_CD4", "foo"])
    with pytest.warns(UserWarning, match=r"^1 features of 'adt' .* 'lot-HLA-DR-x' \(HLA-DRA\)"):
        assert found(rna, adt) == {("CD4", "CD4", "name")}
    adt.var["gene"] = ["", "-", "", "", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "var_names are not unique")
        warnings.filterwarnings("ignore", "From 0.4", FutureWarning)
        links_by_name(mosaic({"rna": rna, "adt": adt}), "rna", "adt")


def test_exact_names_come_before_other_cases():
    rna = wide(["CD4", "Cd4"])
    assert found(rna, panel(["Cd4"])) == {("Cd4", "Cd4", "name")}


def test_wide_modalities_are_linked_by_name_only():
    rna, activity = wide(["CD20", "Reln"]), wide(["MS4A1", "reln"])
    assert found(rna, activity) == {
        ("Reln", "reln", "name"),
        *((f"gene{i}", f"gene{i}", "name") for i in range(1000)),
    }


def test_two_panels_by_name_and_what_is_left_by_gene():
    cytof = panel(
        ["CD45", "CD45RA", "PD-L1", "CD3", "Ki67"], ["PTPRC", "PTPRC", "CD274", "CD3E", "MKI67"]
    )
    adt = panel(["CD45RA", "CD45RO", "CD274", "CD3-1"], ["PTPRC", "PTPRC", "CD274", "CD3E"])
    assert found(cytof, adt) == {
        ("CD45", "CD45RO", "gene"),
        ("CD45RA", "CD45RA", "name"),
        ("PD-L1", "CD274", "gene"),
        ("CD3", "CD3-1", "name"),
    }
    del cytof.var["gene"], adt.var["gene"]
    assert ("PD-L1", "CD274", "alias") in found(cytof, adt)


def test_nothing_linked_is_an_error_that_says_how_names_look():
    mdata = mosaic({"rna": panel(["AAA", "BBB"]), "adt": panel(["X1", "X2"], ["G1", ""])})
    with pytest.raises(ValueError, match=r"No feature of 'rna' \(e\.g\. 'AAA', 'BBB'\)") as error:
        links_by_name(mdata, "rna", "adt")
    assert "'X1' with gene 'G1'" in str(error.value)
    assert "Give links" in str(error.value)


@pytest.fixture
def pair():
    return mosaic({"rna": panel(["A", "B", "C"]), "adt": panel(["A", "X"])})


def test_table_keeps_order_and_largest_weight(pair):
    links = pd.DataFrame(
        {
            "source": ["C", "A", "C", "B"],
            "target": ["X", "A", "X", "A"],
            "weight": [0.5, 1.0, 2.0, 0.25],
        }
    )
    table = links_by_table(pair, "rna", "adt", links)
    assert table["source"].tolist() == ["A", "C", "B"]
    assert table["weight"].tolist() == [1.0, 2.0, 0.25]
    assert table["source_index"].tolist() == [0, 2, 1]
    assert table["target_index"].tolist() == [0, 1, 0]
    assert set(table["type"]) == {"table"}


def test_unknown_names_of_a_table_are_told(pair):
    links = pd.DataFrame({"source": ["A", "nobody"], "target": ["X", "X"]})
    with pytest.warns(UserWarning, match="1 of 2 rows .* 'nobody' of 'rna' with 'X'"):
        assert len(links_by_table(pair, "rna", "adt", links)) == 1
    with pytest.raises(ValueError, match="1 of 1 rows"):
        links_by_table(pair, "rna", "adt", links[1:])
    swapped = pd.DataFrame({"source": ["X"], "target": ["B"]})
    with pytest.raises(ValueError, match="Are source and target swapped"):
        links_by_table(pair, "rna", "adt", swapped)


@pytest.mark.parametrize("weight", [0.0, -1.0, np.nan, np.inf, "much"])
def test_weights_are_positive_numbers(pair, weight):
    links = pd.DataFrame({"source": ["A", "B"], "target": ["A", "X"], "weight": [1.0, weight]})
    with pytest.raises(ValueError, match=r"1 of 2 weights .* 'B' with 'X'"):
        links_by_table(pair, "rna", "adt", links)


def test_what_is_no_table(pair):
    with pytest.raises(TypeError, match="dict"):
        links_by_table(pair, "rna", "adt", {"source": [], "target": []})
    with pytest.raises(ValueError, match="'from', 'to'"):
        links_by_table(pair, "rna", "adt", pd.DataFrame({"from": ["A"], "to": ["A"]}))
    with pytest.raises(ValueError, match="0 rows"):
        links_by_table(pair, "rna", "adt", pd.DataFrame({"source": [], "target": []}))
