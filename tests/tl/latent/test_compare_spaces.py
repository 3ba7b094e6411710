"""In which spaces features and sets of genes change."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from mosaics import mosaic
from scipy import sparse

from cantata.tl import compare_spaces, interpret_latent


@pytest.fixture(scope="module")
def spaces():
    """Genes 0 to 4 follow the shared space, 5 to 9 the specific one, 10 both."""
    rng = np.random.default_rng(0)
    shared, specific = rng.normal(size=(2, 1500, 2)) * [3, 1]
    rate = np.full((1500, 200), 5.0)
    rate[:, :5] *= np.exp(0.3 * shared[:, :1])
    rate[:, 5:10] *= np.exp(0.3 * specific[:, :1])
    rate[:, 10] *= np.exp(0.2 * shared[:, 0] + 0.2 * specific[:, 0])
    rna = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    rna.obs_names = [f"c{i}" for i in range(1500)]
    rna.var_names = [f"g{j}" for j in range(200)]
    rna.obsm["shared"], rna.obsm["specific"] = shared, specific
    adt = rna[:, :3].copy()
    adt.var_names = ["a", "b", "c"]
    data = mosaic({"rna": rna, "adt": adt})
    sets = {"one": [f"g{j}" for j in range(5)], "two": [f"g{j}" for j in range(5, 10)]}
    options = {"layer": None, "n_splits": 4, "train_size": 0.5, "gene_sets": sets}
    found = {rep: interpret_latent(data, "rna", use_rep=rep, **options) for rep in rna.obsm}
    other = interpret_latent(data, "adt", use_rep="shared", **options | {"gene_sets": None})
    return found, other


@pytest.mark.parametrize("variance", [0.5, 0.95, 1.0])
def test_shares_equal_a_loop(spaces, variance) -> None:
    """The first component of each space has nine tenths of its variance."""
    found, _ = spaces
    table = compare_spaces(found, variance=variance)
    assert list(table.columns) == ["shared", "specific"]
    assert (table.max(axis=1) > 0).all()
    assert (np.diff(table.max(axis=1)) <= 0).all()
    for name, result in found.items():
        for feature in [f"g{j}" for j in range(200)]:
            rows = result.features[result.features["feature"] == feature]
            least = result.parameters["min_share"] * 4
            along = {r.component for r in rows.itertuples() if r.n_significant >= max(1, least)}
            along &= {"PC1"} if variance < 0.9 else {"PC1", "PC2"}
            share = table[name].get(feature, 0.0)
            assert share == pytest.approx(len(along) / (1 if variance < 0.9 else 2))
    shared, specific = table["shared"] > 0, table["specific"] > 0
    for j in range(11):
        assert bool(shared.get(f"g{j}")) == (j < 5 or j == 10), j
        assert bool(specific.get(f"g{j}")) == (j >= 5), j


def test_sets_of_genes(spaces) -> None:
    found, _ = spaces
    table = compare_spaces(found, kind="gene_sets", variance=1)
    assert table.loc["one"].to_dict() == {"shared": 0.5, "specific": 0.0}
    assert table.loc["two"].to_dict() == {"shared": 0.0, "specific": 0.5}


def test_bad_input_is_named(spaces) -> None:
    found, other = spaces
    with pytest.raises(ValueError, match="spaces is empty"):
        compare_spaces({})
    with pytest.raises(ValueError, match="variance=70 must be above 0 and at most 1"):
        compare_spaces(found, variance=70)
    with pytest.raises(ValueError, match="kind='genes' is neither"):
        compare_spaces(found, kind="genes")
    with pytest.raises(TypeError, match="'a': 'DataFrame'"):
        compare_spaces({"a": found["shared"].features})
    with pytest.raises(ValueError, match=r"different modalities, \{'a': 'rna', 'b': 'adt'\}"):
        compare_spaces({"a": found["shared"], "b": other})
    with pytest.raises(ValueError, match=r"spaces\['b'\] was interpreted without gene sets"):
        compare_spaces({"a": found["shared"], "b": other}, kind="gene_sets")
