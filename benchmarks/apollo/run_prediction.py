"""Predict a modality of held-out cells from their RNA: ``python run_prediction.py CONFIG.json``.

Of the configuration: ``data`` (``"pbmc5k"``, ``"snare"``), ``method``, ``classify`` (also predict
cell types from APOLLO's latents), and for ``"apollo"`` as in ``run_simulation.py``.
"""

from __future__ import annotations

from typing import Any

import fits
import make_cells
import mudata
import numpy as np
import peers
import scvi
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cantata

TEST_SHARE = 0.2
TARGETS = {"pbmc5k": "adt", "snare": "atac"}
UNKNOWN = "Mis"
"""Label of unassigned cells: trained on, not scored."""
K, N_SAMPLES, MIN_POSITIVE, PERMUTATIONS = 15, 10, 5, 5
LAYERS, EPOCHS = (128, 128, 128), 100


def load(config: dict[str, Any]) -> tuple[MuData, MuData]:
    """Training cells and held-out ones."""
    if config["data"] == "snare":
        mdata = make_cells.snare()
    else:
        stored = mudata.read_h5mu(make_cells.folder() / "pbmc5k_citeseq.h5mu")
        types = stored["rna"].obs["cell_type"].to_numpy()
        mdata = make_cells.joined(dict(stored.mod), {make_cells.TYPE: types})
    mdata = make_cells.some(mdata, config.get("cells"))
    order = np.random.default_rng(config["seed"]).permutation(mdata.n_obs)
    held, rest = np.split(order, [int(TEST_SHARE * mdata.n_obs)])
    return mdata[np.sort(rest)].copy(), mdata[np.sort(held)].copy()


def dense(x: Any) -> np.ndarray:
    """Array of what may be sparse."""
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def by_clue(train: MuData, test: MuData, target: str, config: dict, clock: Any) -> np.ndarray:
    """Expected counts by CLUE."""
    fitted, later = train.copy(), MuData({"rna": test["rna"].copy()})
    cantata.pp.preprocess(fitted)
    cantata.pp.preprocess(later, reference=fitted)
    about = fitted.uns["cantata"]["preprocess"]
    reps = {name: str(about[name]["rep"]) for name in fitted.mod}
    own = train.copy()
    for name, key in reps.items():
        own[name].obsm[key] = fitted[name].obsm[key]
    query = test["rna"].copy()
    query.obsm[reps["rna"]] = later["rna"].obsm[reps["rna"]]
    cantata.CLUE.setup_mudata(own, reps=reps)
    model = cantata.CLUE(own)
    model.train(config.get("max_epochs"), callbacks=[clock], **fits.QUIET)
    return dense(model.impute(target, MuData({"rna": query}), source="rna").X)


def by_neighbours(train: MuData, test: MuData, target: str) -> np.ndarray:
    """Mean values, of log counts or of open peaks, of the nearest training cells in RNA."""
    fitted = MuData({"rna": train["rna"].copy()})
    later = MuData({"rna": test["rna"].copy()})
    cantata.pp.preprocess(fitted)
    cantata.pp.preprocess(later, reference=fitted)
    values = dense(train[target].X)
    values = np.log1p(values) if target == "adt" else (values > 0).astype(np.float32)
    found = KNeighborsRegressor(K).fit(fitted["rna"].obsm["X_cantata_pca"], values)
    predicted = found.predict(later["rna"].obsm["X_cantata_pca"])
    return np.expm1(predicted) if target == "adt" else predicted


def by_scvi(train: MuData, test: MuData, target: str, config: dict, clock: Any) -> np.ndarray:
    """Expected counts by TOTALVI, or accessibilities by MULTIVI.

    Both must see the RNA of the held-out cells in training, with zeros where the other modality
    is missing.
    """
    joint = {}
    for name in train.mod:
        later = sparse.csr_matrix(test[name].X)
        parts = [sparse.csr_matrix(train[name].X), later if name == "rna" else 0 * later]
        joint[name] = AnnData(sparse.vstack(parts, format="csr").astype(np.float32))
        joint[name].obs_names = [*train.obs_names, *test.obs_names]
        joint[name].var_names = train[name].var_names
    mdata = MuData(joint)
    mdata.obs["known"] = np.repeat(["both", "rna"], [train.n_obs, test.n_obs])
    rows = np.arange(train.n_obs, mdata.n_obs)
    if target == "adt":
        model, _ = peers.totalvi(mdata, clock, config, "known")
        _, values = model.get_normalized_expression(
            indices=rows,
            transform_batch="both",
            n_samples=N_SAMPLES,
            include_protein_background=True,
            return_numpy=True,
        )
        return values
    scvi.model.MULTIVI.setup_mudata(
        mdata, batch_key="known", modalities={"rna_layer": "rna", "atac_layer": "atac"}
    )
    model = scvi.model.MULTIVI(mdata)
    model.train(config.get("max_epochs", 200), callbacks=[clock], **fits.QUIET)
    found = model.get_normalized_accessibility(
        indices=rows.tolist(), transform_batch="both", return_numpy=True
    )
    return dense(found)


def feature_scores(predicted: np.ndarray, test: MuData, target: str) -> dict[str, float]:
    """Pearson correlation of log1p of every protein, or AUROC of every peak."""
    found = {}
    for j, name in enumerate(test[target].var_names):
        true = dense(test[target][:, j].X).ravel()
        if target == "adt":
            if np.ptp(true) > 0 and np.ptp(predicted[:, j]) > 0:
                pair = np.log1p(true), np.log1p(np.maximum(predicted[:, j], 0))
                found[name] = float(np.corrcoef(*pair)[0, 1])
        elif MIN_POSITIVE <= (true > 0).sum() < len(true):
            found[name] = float(roc_auc_score(true > 0, predicted[:, j]))
    return found


def type_scores(model: Any, train: MuData, test: MuData, seed: int) -> dict[str, dict]:
    """Accuracy of cell types of held-out cells from each modality's latents."""
    y, truth = (m.obs[make_cells.TYPE].to_numpy(dtype=str) for m in (train, test))
    known, scored = y != UNKNOWN, truth != UNKNOWN
    permuted = np.random.default_rng(seed)
    found = {}
    for name in train.mod:
        for space in ("shared", "full"):
            x, z = (
                model.get_latent_representation(m, modality=name, space=space)
                for m in (train, test)
            )
            x, z = x[known], z[scored]
            linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            vote = make_pipeline(StandardScaler(), KNeighborsClassifier(K))
            # four layers, as in the paper
            layers = MLPClassifier(LAYERS, max_iter=EPOCHS, random_state=seed)
            network = make_pipeline(StandardScaler(), layers)
            chance = [
                vote.fit(x, permuted.permutation(y[known])).score(z, truth[scored])
                for _ in range(PERMUTATIONS)
            ]
            found[f"{name} {space}"] = {
                "logistic": float(linear.fit(x, y[known]).score(z, truth[scored])),
                "15-NN": float(vote.fit(x, y[known]).score(z, truth[scored])),
                "network": float(network.fit(x, y[known]).score(z, truth[scored])),
                "permuted": float(np.mean(chance)),
            }
    return found


def main() -> None:
    """Run the configuration."""
    config, recorder, clock = fits.begin()
    train, test = load(config)
    target = TARGETS[config["data"]]
    recorder.watch.start()
    extra: dict[str, Any] = {}
    if config["method"] == "apollo":
        model = fits.fit_apollo(train, config, clock)
        with recorder.watch.paused():
            back = target == "adt" or model.module.losses[target] != "bce"
            query = MuData({"rna": test["rna"]})
            predicted = dense(model.impute(target, query, source="rna", calibrate=back).X)
            if config.get("classify"):
                extra["types"] = type_scores(model, train, test, config["seed"])
    elif config["method"] == "clue":
        predicted = by_clue(train, test, target, config, clock)
    elif config["method"] == "knn":
        predicted = by_neighbours(train, test, target)
    else:
        predicted = by_scvi(train, test, target, config, clock)
    recorder.watch.stop()
    scores = feature_scores(predicted, test, target)
    recorder.watch.start()
    extra["shape"] = {name: list(train[name].shape) for name in train.mod}
    recorder.finish(None, features=scores, n_test=test.n_obs, **clock.record(), **extra)


if __name__ == "__main__":
    main()
