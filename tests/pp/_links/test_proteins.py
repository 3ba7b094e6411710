from __future__ import annotations

import re

import pytest

from cantata.pp._links._proteins import (
    ALIASES,
    _read_table,
    alias_key,
    genes_in,
    genes_of,
    plain_name,
)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("CD3_TotalSeqB", "CD3"),
        ("CD3-TotalSeq-C", "CD3"),
        ("CD4_prot", "CD4"),
        ("ADT_CD102_A0104", "CD102"),
        ("anti-P2RY12", "P2RY12"),
        ("CD3-1", "CD3"),
        ("cd38.2", "cd38"),
        ("CD16-32", "CD16-32"),
        ("HLA-A", "HLA-A"),
        ("TIM-4", "TIM-4"),
        ("MT-ND1", "MT-ND1"),
        ("TCRab", "TCRab"),
        ("ADT", "ADT"),
        ("145Nd_CD4", "CD4"),
        ("Nd145Di_HLA-DR", "HLA-DR"),
        ("CD4(Nd145)Di", "CD4"),
        ("112Cd_CD45", "CD45"),
        ("Cd112", "Cd112"),
        ("human_CD4", "CD4"),
        ("anti-mouse/human CD44", "CD44"),
        ("CITE_CD4", "CD4"),
        ("adt:CD4", "CD4"),
        ("A0072_CD4", "CD4"),
        ("hCD4", "CD4"),
        ("CD4:SK3|CD4|AHS0032|pAbO", "CD4"),
        ("HLA-DR|CD74|AHS0035|pAbO", "HLA-DR"),
    ],
)
def test_names_lose_what_panels_add(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("name", "genes"),
    [
        ("CD3", {"CD3E", "CD3D", "CD3G"}),
        ("CD3-1", {"CD3E", "CD3D", "CD3G"}),  # not CD31
        ("cd31", {"PECAM1"}),
        ("CD45RA", {"PTPRC"}),
        ("CD45.1", {"PTPRC"}),
        ("B220", {"PTPRC"}),
        ("CD90.2", {"THY1"}),
        ("PD-1", {"PDCD1"}),
        ("PD-L1", {"CD274"}),
        ("CD274(B7-H1_PD-L1)", {"CD274"}),
        ("ADT_CD117(c-Kit)_A0012", {"KIT"}),
        ("hla.dr", {"HLA-DRA", "HLA-DRB1"}),
        ("TCRγδ", {"TRDC", "TRGC1", "TRGC2", "TCRG-C1"}),
        ("gdTCR", {"TRDC", "TRGC1", "TRGC2", "TCRG-C1"}),
        ("FcεRI", {"FCER1A"}),
        ("CD11a/CD18", {"ITGAL", "ITGB2"}),
        ("CD11a.CD18", {"ITGAL", "ITGB2"}),
        ("ITGA4/ITGB7", {"ITGA4", "ITGB7"}),
        ("CD66a/c/e", {"CEACAM1", "CEACAM6", "CEACAM5"}),
        ("CD56(NCAM)Recombinant", {"NCAM1"}),
        ("Hu.CD4-RPA.T4", {"CD4RPAT4", "CD4"}),
        ("CD200(OX2)", {"CD200", "OX2"}),
        ("189Y(CD3)", {"CD3E", "CD3D", "CD3G"}),
        ("xyz_CD4", {"XYZCD4", "xyz", "CD4"}),
        ("145Nd_HLA-DR", {"HLA-DRA", "HLA-DRB1"}),
        ("HLA-DR-1", {"HLA-DRA", "HLA-DRB1"}),
        ("CD4:SK3-CD4-AHS0032-pAbO", {"CD4SK3CD4", "CD4"}),
        ("CD45RA:HI100|PTPRC|AHS0009|pAbO", {"PTPRC"}),
        ("new:clone|GENEX|AHS0001|pAbO", {"NEW", "new", "GENEX"}),
        ("isotype_control_IgG1", set()),
        ("IgD-control", set()),
    ],
)
def test_genes_of_proteins(name, genes):
    assert set(genes_of(name)) == genes


def test_markers_anywhere_in_a_name():
    assert genes_in("lot7-HLA-DR-x") == ("HLA-DRA", "HLA-DRB1")
    assert "MS4A1" in genes_in("tagCD20v2")
    assert "ITGA2B" not in genes_in("CD4-1")  # CD41
    assert genes_in("CD20_isotype") == ()


def test_table_of_aliases_is_sound():
    keys = [alias_key(protein) for proteins, _ in _read_table() for protein in proteins]
    assert len(keys) == len(set(keys)) == len(ALIASES), "a protein stands in two rows"
    assert "" not in ALIASES
    assert len(ALIASES) > 150
    for protein, genes in ALIASES.items():
        assert genes, protein
        assert all(re.fullmatch(r"[A-Z][A-Z0-9-]+", gene) for gene in genes), protein
    # a key that is another protein's gene would link the wrong ones
    symbols = {alias_key(gene) for genes in ALIASES.values() for gene in genes}
    for key in symbols & set(ALIASES):
        assert key in {alias_key(gene) for gene in ALIASES[key]}, key
