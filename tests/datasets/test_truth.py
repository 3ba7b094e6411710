"""The simulated signal can be found, is no gift, and is where the truth says it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsClassifier

from cantata.datasets import simulate_mosaic

WIDTHS = {"rna": 500, "adt": 40, "atac": 1500}


@pytest.fixture(scope="module")
def study():
    return simulate_mosaic(1600, n_features=WIDTHS, pairing="full", shuffle=False)


def _log_normalised(adata):
    counts = sparse.csr_matrix(adata.X)
    total = np.asarray(counts.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags(np.median(total) / total) @ counts).log1p()


def _components(adata, n=30):
    if adata.n_vars < 100:
        logs = np.log1p(adata.X.toarray())
        logs -= logs.mean(axis=1, keepdims=True)
        logs = (logs - logs.mean(axis=0)) / logs.std(axis=0)
        return TruncatedSVD(20, random_state=0).fit_transform(logs)
    logs = _log_normalised(adata).toarray()
    logs = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-3)
    return TruncatedSVD(n, random_state=0).fit_transform(np.clip(logs, -10, 10))


def _halves(n):
    order = np.random.default_rng(0).permutation(n)
    return order[: n // 2], order[n // 2 :]


@pytest.mark.parametrize(
    ("name", "least", "r2"), [("rna", 0.85, 0.65), ("adt", 0.85, 0.65), ("atac", 0.7, 0.55)]
)
def test_types_and_shared_factors_are_found_but_not_given_away(study, name, least, r2):
    components, labels = _components(study[name]), study.obs["cell_type"].to_numpy()
    train, test = _halves(study.n_obs)
    neighbours = KNeighborsClassifier(15).fit(components[train], labels[train])
    accuracy = neighbours.score(components[test], labels[test])
    assert least < accuracy < 0.98
    truth = study.obsm["truth_shared"]
    probe = RidgeCV(np.logspace(-2, 4, 10)).fit(components[train], truth[train])
    assert r2 < probe.score(components[test], truth[test]) < 0.95
    other = study["rna" if name == "adt" else "adt"].obsm["truth_private"]
    assert (
        RidgeCV().fit(components[train], other[train]).score(components[test], other[test]) < 0.05
    )
    own = study[name].obsm["truth_private"]
    assert RidgeCV().fit(components[train], own[train]).score(components[test], own[test]) > 0.3


def test_canonical_variates_match_cells_but_not_perfectly(study):
    train, test = _halves(study.n_obs)
    blocks = [_components(study[name]) for name in ("rna", "adt")]
    blocks = [block - block[train].mean(axis=0) for block in blocks]
    whiten = []
    for block in blocks:
        values, vectors = np.linalg.eigh(np.cov(block[train].T))
        whiten.append(vectors / np.sqrt(values + 0.05 * values.mean()) @ vectors.T)
    a, b = (block @ w for block, w in zip(blocks, whiten, strict=True))
    left, strengths, right = np.linalg.svd(a[train].T @ b[train] / len(train))
    k = len(strengths)
    a, b = a @ left[:, :k] * strengths, b @ right.T[:, :k] * strengths
    a, b = (x[test] / np.linalg.norm(x[test], axis=1, keepdims=True) for x in (a, b))
    similarity = a @ b.T
    own = np.diag(similarity)
    closer = ((similarity > own[:, None]).mean() + (similarity > own[None]).mean()) / 2
    assert 0.02 < closer < 0.12


@pytest.mark.parametrize("target", ["adt", "atac"])
def test_linked_features_correlate(study, target):
    links = study.uns["truth"]["links"]
    links = links[links["target_modality"] == target]
    assert set(links["source_modality"]) == {"rna"}
    assert len(links) == {"adt": 32, "atac": 450}[target]
    genes, features = (
        dict(zip(study[m].var_names, _log_normalised(study[m]).T.toarray(), strict=True))
        for m in ("rna", target)
    )

    def mean_correlation(targets):
        pairs = zip(links["source"], targets, strict=True)
        return np.mean([np.corrcoef(genes[g], features[t])[0, 1] for g, t in pairs])

    linked = mean_correlation(links["target"])
    rng = np.random.default_rng(0)
    shuffled = [mean_correlation(rng.permutation(links["target"].to_numpy())) for _ in range(20)]
    assert linked > np.mean(shuffled) + 5 * np.std(shuffled)
    assert linked > {"adt": 0.15, "atac": 0.03}[target]


def test_the_gene_column_is_the_links_table(study):
    links = study.uns["truth"]["links"]
    for name in ("adt", "atac"):
        part = links[links["target_modality"] == name]
        gene = study[name].var["gene"]
        assert gene[gene != ""].to_dict() == dict(zip(part["target"], part["source"], strict=True))
        assert set(part["source"]) <= set(study["rna"].var_names)


def test_batches_differ_by_what_was_asked():
    def batch_accuracy(batch_effect):
        mdata = simulate_mosaic(
            800, n_features={"rna": 300}, pairing="full", batch_effect=batch_effect
        )
        labels = mdata["rna"].obs["batch"].to_numpy()
        components = _components(mdata["rna"])
        train, test = _halves(mdata.n_obs)
        neighbours = KNeighborsClassifier(15).fit(components[train], labels[train])
        return neighbours.score(components[test], labels[test])

    none, usual, strong = (batch_accuracy(effect) for effect in (0, 0.25, 1.0))
    assert none < 0.58
    assert none + 0.02 < usual < strong
    assert strong > 0.9
