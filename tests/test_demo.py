from __future__ import annotations

import contextlib
import errno
import io
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mosaics import mosaic
from rich.console import Console
from scipy import sparse

import cantata
from cantata import datasets, pp
from cantata.__main__ import main
from cantata._demo import _data, _images, _output, _scores
from cantata._mudata.pairing import membership

SMALL = {"n_cells": 300, "n_features": {"rna": 120, "adt": 20}}


def run(*arguments: str) -> tuple[int, str]:
    """Exit status and printed text of the demo, which must cause no warning outside."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), warnings.catch_warnings():
        warnings.simplefilter("error")
        status = main(["demo", *arguments, "--accelerator", "cpu"])
    return status, text.getvalue()


def read(path: Path) -> mudata.MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.read_h5mu(path)


def write(mdata: mudata.MuData, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.write(path)
    return str(path)


def scores_of(mdata: mudata.MuData) -> pd.DataFrame:
    return mdata.uns["cantata"]["demo"]["scores"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Folder, text and MuData of the demo on a small simulated mosaic."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_data, "SIMULATION", SMALL)
        status, text = run("--out", str(out), "--epochs", "10", "--seed", "4")
    assert status == 0
    return out, text, read(out / "demo.h5mu")


def test_files_are_written(simulated):
    from matplotlib.image import imread

    out, text, _ = simulated
    assert sorted(path.name for path in out.iterdir()) == ["demo.h5mu", "demo.png"]
    image = imread(out / "demo.png")[..., :3]
    assert image.shape[0] > 800
    assert image.shape[1] > 1600
    assert image.std() > 0.05  # not an empty page
    assert "replaced" not in text


def test_keys_are_written(simulated):
    _, _, mdata = simulated
    assert mdata.obsm["X_clue"].shape == (300, 40)
    assert np.isfinite(mdata.obsm["X_clue"]).all()
    assert mdata.obsm["X_umap"].shape == (300, 2)
    assert mdata.obsm["clue_imputed_adt"].shape == (300, 20)
    assert mdata.obs["leiden_clue"].nunique() > 1
    for name in ("rna", "adt"):
        assert mdata[name].obsm["X_clue"].shape == (mdata[name].n_obs, 40)
        assert "counts" in mdata[name].layers
    assert mdata.uns["cantata"]["clue"]["seed"] == 4


def test_scores_beat_chance(simulated):
    scores = scores_of(simulated[2])
    figures = scores[["model", "simple", "chance"]].to_numpy()
    assert np.isfinite(figures).all()
    better = (scores["model"] > scores["chance"]) == scores["higher_is_better"].astype(bool)
    assert better.all(), scores[~better]
    assert set(scores["cells"]) == {"held-out cells", "training cells", "simulated truth"}
    assert len(scores) == 7


def test_what_is_printed(simulated):
    _, text, mdata = simulated
    for words in ("Pairing", "rna + adt", "Preprocess", "Train", "Scores", "FOSCTTM", "k-NN"):
        assert words in text
    for remark in ("Warning", "GPU available", "Seed set", "litlogger", "Signaling", "INFO"):
        assert remark not in text
    assert f"{int(mdata.obs['held_out'].sum())} paired cells were held out" in text


def test_images_from_beginning_to_end(tmp_path, monkeypatch):
    from matplotlib.image import imread

    monkeypatch.setattr(_images, "SIMULATION", {"n_cells": 300, "side": 16})
    asked = ("--model", "apollo", "--images", "--out", str(tmp_path), "--epochs", "40")
    status, text = run(*asked)
    assert status == 0
    for words in (
        "60 are held out",
        "epochs of latents and decoders",
        "R2 on held-out",
        "mean image",
    ):
        assert words in text
    for remark in ("Warning", "Seed set", "INFO", "replaced"):
        assert remark not in text
    picture = imread(tmp_path / "demo.png")[..., :3]
    assert picture.shape[0] > picture.shape[1] > 500
    assert picture.std() > 0.1
    mdata = read(tmp_path / "demo.h5mu")
    assert mdata.obsm["X_apollo"].shape[0] == 300
    assert mdata["dna"].obsm["single_cell_images"].shape == (300, 1, 16, 16)
    scores = mdata.uns["cantata"]["demo"]["factors"]
    best = scores.groupby("block")["score"].max()
    assert set(best.index) == {"shared, dna", "shared, protein", "dna", "protein"}
    assert scores["is_own"].sum() == 2 * 4 + 2 + 3
    shared = scores[scores["block"] == "shared, dna"].set_index("factor")["score"]
    assert shared["size"] > 0.3 + shared["protein_side_x"]
    pearson = mdata.uns["cantata"]["demo"]["pearson"]
    assert pearson.loc["dna", "mean image"] < pearson.loc["dna", "predicted"]
    assert (pearson["noiseless"] > 0.95).all()


def test_held_out_cells_are_paired(simulated):
    _, _, mdata = simulated
    held = mdata.obs["held_out"].to_numpy(dtype=bool)
    assert 20 < held.sum() <= 0.25 * 150
    assert membership(mdata)[held].all()


def test_own_file_again_gives_the_same(tmp_path):
    data = datasets.simulate_mosaic(
        240, n_features={"rna": 80, "adt": 15, "atac": 150}, n_cell_types=4, seed=1
    )
    for holder in (data, *data.mod.values()):
        holder.obs.columns = ["my types" if c == "cell_type" else c for c in holder.obs]
    path = write(data, tmp_path / "own.h5mu")
    asked = ("--data", path, "--out", str(tmp_path), "--label-key", "my types", "--epochs", "4")
    status, text = run(*asked)
    assert status == 0
    assert "replaced" not in text
    first = read(tmp_path / "demo.h5mu")
    status, text = run(*asked)
    assert status == 0
    assert "(replaced: demo.h5mu, demo.png)" in text
    second = read(tmp_path / "demo.h5mu")
    pd.testing.assert_frame_equal(scores_of(first), scores_of(second))
    assert np.array_equal(first.obsm["X_clue"], second.obsm["X_clue"])
    names = set(scores_of(second)["score"])
    assert {
        "labels, atac-only to adt-only",
        "FOSCTTM, adt and atac",
        "adt from atac, Pearson r",
    } < names
    assert "simulated truth" not in set(scores_of(second)["cells"])


def test_odd_file(tmp_path):
    """No labels, a modality of unknown kind, cells without counts, counts in a layer."""
    data = datasets.simulate_mosaic(
        200,
        n_features={"rna": 60, "adt": 15, "mystery": 320},
        kinds={"mystery": "rna"},
        pairing={("rna", "adt"): 0.7, ("rna",): 0.2, ("mystery", "adt"): 0.1},
    )
    for holder in (data, *data.mod.values()):
        holder.obs = holder.obs[[]]
    rna = data["rna"]
    rna.X = sparse.csr_matrix(np.where(np.arange(rna.n_obs)[:, None] < 3, 0, rna.X.toarray()))
    rna.layers["counts"] = rna.X.copy()
    rna.X = rna.X * 0.5
    status, text = run(
        "--data", write(data, tmp_path / "odd.h5mu"), "--out", str(tmp_path), "--epochs", "2"
    )
    assert status == 0
    flat = " ".join(text.split())
    assert "Nothing tells what 'mystery' measures" in flat
    assert "taken as not measured there: 3 cells in rna" in flat
    assert "name a column with --label-key" in flat
    result = read(tmp_path / "demo.h5mu")
    assert set(result.mod) == {"rna", "adt"}
    assert not scores_of(result)["score"].str.contains("labels").any()


def write_10x(path: Path, counts: np.ndarray, names: list[str], types: list[str]) -> None:
    """Cells x features as Cell Ranger writes them."""
    matrix = sparse.csr_matrix(counts)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"cell{i}-1" for i in range(len(counts))], dtype="S")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = counts.shape[::-1]
        features = {"name": names, "feature_type": types, "genome": ["x"] * len(names)}
        features["id"] = [f"id{j}" for j in range(len(names))]
        for key, values in features.items():
            group[f"features/{key}"] = np.array(values, dtype="S")


def test_file_of_cell_ranger(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (30, 12)).astype(np.int32)
    names = [*"ABCA", *(f"chr1:{j}00-{j}50" for j in range(1, 5)), "CD3", "CD4", "CD8", "A"]
    types = ["Gene Expression"] * 4 + ["Peaks"] * 4 + ["Antibody Capture"] * 4
    write_10x(tmp_path / "x.h5", counts, names, types)
    mdata = _data.load(tmp_path / "x.h5", None, None, seed=0).mdata
    assert set(mdata.mod) == {"rna", "prot", "atac"}
    assert list(mdata["rna"].var_names) == ["A", "B", "C", "A-1"]
    np.testing.assert_array_equal(mdata["prot"].X.toarray(), counts[:, 8:])
    pp.preprocess(mdata, n_components=2)
    assert mdata["atac"].obsm["X_cantata_lsi"].shape == (30, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.h5mu"], "there is no file nowhere.h5mu"),
        (["--data", "table.h5ad"], "holds an AnnData"),
        (["--data", "text.h5mu"], "cannot be read as an h5mu file"),
        (["--data", "text.h5"], "cannot be read as a 10x file"),
        (["--data", "unpaired.h5mu"], "SCMODAL"),
        (["--data", "good.h5mu", "--label-key", "nope"], "--label-key='nope'"),
        (["--data", "good.h5mu", "--batch-key", "nope"], "--batch-key='nope'"),
        (["--data", "floats.h5mu"], "layers['counts']"),
        (["--data", "strange.h5mu"], "'a', 'b'"),
        (["--out", "text.h5mu"], "--out: cannot write to text.h5mu: File exists"),
        (["--out", "text.h5mu/new"], "--out: cannot write to text.h5mu/new: Not a directory"),
        (["--model", "nope"], "'nope'"),
        (["--model", "apollo"], "--model apollo and --images go together"),
        (["--images"], "--model apollo and --images go together"),
        (["--model", "apollo", "--images", "--batch-key", "x"], "--batch-key: the demo on images"),
        (["--epochs", "0"], "--epochs: 0 is not between"),
        (["--seed", "x"], "--seed: 'x' is no integer"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = {"n_features": {"rna": 20, "adt": 8}, "n_cell_types": 2}
    Path("text.h5mu").write_text("no HDF5")
    Path("text.h5").write_text("no HDF5")
    good = datasets.simulate_mosaic(120, **tiny)
    write(good, Path("good.h5mu"))
    good["rna"].write_h5ad("table.h5ad")
    good["rna"].X = good["rna"].X * 0.3
    write(good, Path("floats.h5mu"))
    write(datasets.simulate_mosaic(60, pairing="none", **tiny), Path("unpaired.h5mu"))
    parts = {}
    for name in ("a", "b"):
        parts[name] = AnnData(np.ones((5, 400), dtype=np.float32))
        parts[name].var_names = [f"{name}{i}" for i in range(400)]
    write(mosaic(parts), Path("strange.h5mu"))
    try:
        status = main(["demo", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("python -m cantata demo: error: ")
    assert message in error
    assert not Path("demo.h5mu").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--nope"],
        ["--data", "nowhere.h5mu"],
        ["--out", "text/new"],
        ["--images"],
    ],
)
def test_wrong_options_are_refused_before_torch_is_imported(arguments, tmp_path):
    (tmp_path / "text").write_text("no folder")
    script = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'scvi', 'scanpy', 'mudata'])\n"
        f"sys.argv[1:] = ['demo', *{arguments}]\n"
        "runpy.run_module('cantata', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("python -m cantata")


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(
    tmp_path, monkeypatch, capsys
):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write everywhere
    assert main(["demo", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"python -m cantata demo: error: --out: cannot write to {tmp_path}: Permission denied.\n"
    )


@pytest.mark.parametrize("width", [30, 50, 200])
def test_lines_in_a_terminal_break_between_words(width):
    note = "Without any count and taken as not measured there: 3 cells in rna, [7] in adt-like."
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, color_system=None, width=width)
    _output.say(console, "note", note, 1.5)
    lines = text.getvalue().splitlines()
    assert " ".join(text.getvalue().split()) == f"note {note} (1.5 s)"
    assert max(map(len, lines)) <= width
    assert all(line.startswith(" " * _output.TITLE_WIDTH) for line in lines[1:])
    assert len(lines) > 1 or width == 200
    piped = io.StringIO()
    _output.say(Console(file=piped, width=width), "note", note)
    assert piped.getvalue().count("\n") == 1  # whatever reads it breaks lines itself


def test_rooms_and_models_are_found_at_first_use():
    assert set(cantata.__all__) <= set(dir(cantata))
    for name in cantata.__all__:
        assert getattr(cantata, name) is not None
    assert cantata.CLUE is cantata.model.CLUE
    with pytest.raises(AttributeError, match="no attribute 'clue'"):
        cantata.clue  # noqa: B018


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for option in ("data", "model", "images", "label-key", "batch-key", "out", "seed", "epochs"):
        assert f"--{option}" in text


@pytest.mark.parametrize("share_of_pairs", [0.2, 0.5, 1.0])
def test_hold_out_leaves_some_of_each_batch(share_of_pairs):
    pairing = {("rna", "adt"): share_of_pairs}
    if share_of_pairs < 1:
        pairing[("rna",)] = 1 - share_of_pairs
    data = datasets.simulate_mosaic(
        400, n_features={"rna": 10, "adt": 5}, n_batches=4, pairing=pairing
    )
    found = _data.Mosaic(data, "", None, "batch", {}, None, [])
    held = _data.hold_out(found, seed=0)
    paired = membership(data).all(axis=1)
    assert paired[held].all()
    batch = data.obs["batch"].to_numpy()
    for name in np.unique(batch[paired]):
        n_held, n = held[batch == name].sum(), (paired & (batch == name)).sum()
        assert 0 < n_held <= 0.25 * n
    train = _data.training_part(data, held)
    assert set(train.obs_names) == set(data.obs_names[~held])
    assert not set(train["rna"].obs_names) & set(data.obs_names[held])
    assert np.array_equal(held, _data.hold_out(found, seed=0))
    assert not np.array_equal(held, _data.hold_out(found, seed=1))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"leiden": list("aabb") * 5, "celltype": list("abab") * 5}, "celltype"),
        ({"leiden": list("aabb") * 5}, "leiden"),
        ({"cell_type": ["same"] * 20, "labels": list("aabb") * 5}, "labels"),
        ({"cell_type": [f"c{i}" for i in range(20)]}, None),
        ({"something": list("aabb") * 5}, None),
    ],
)
def test_label_column_is_found(columns, expected):
    names = [f"c{i}" for i in range(20)]
    parts = {}
    for name in ("rna", "adt"):
        obs, var = pd.DataFrame(columns, index=names), pd.DataFrame(index=[name])
        parts[name] = AnnData(np.ones((20, 1)), obs=obs, var=var)
    found = _data._column(mosaic(parts), None, _data.LABEL_NAMES, "--label-key", [])
    assert found == expected


def test_contradicting_labels_are_said_and_skipped():
    names = [f"c{i}" for i in range(20)]
    parts = {}
    for name, levels in (("rna", "ab"), ("adt", "ba")):
        obs = pd.DataFrame({"cell_type": list(levels) * 10}, index=names)
        parts[name] = AnnData(np.ones((20, 1)), obs=obs, var=pd.DataFrame(index=[name]))
    notes: list[str] = []
    found = _data._column(mosaic(parts), None, _data.LABEL_NAMES, "--label-key", notes)
    assert found is None
    assert "cell_type" in notes[0]


def test_neighbor_means_is_a_loop():
    rng = np.random.default_rng(0)
    reference, query = rng.normal(size=(30, 3)), rng.normal(size=(7, 3))
    values = rng.normal(size=(30, 5))
    found = _scores.neighbor_means(reference, values, query, k=4)
    for i, cell in enumerate(query):
        near = np.argsort(((reference - cell) ** 2).sum(axis=1))[:4]
        assert np.allclose(found[i], values[near].mean(axis=0))


def test_correlations_is_a_loop():
    rng = np.random.default_rng(0)
    predicted, truth = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
    predicted[:, 1] = 3.0  # a constant prediction tells nothing
    truth[:, 2] = 1.0  # a constant truth cannot be predicted
    expected = [
        np.corrcoef(predicted[:, j], truth[:, j])[0, 1] if j != 1 else 0 for j in (0, 1, 3)
    ]
    assert np.allclose(_scores.correlations(predicted, truth), expected)


def test_perfect_and_random_embeddings_are_scored_as_such():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(["a", "b"], dtype=object), 40)
    rows = {"x": np.arange(80), "y": np.arange(80)}
    held = np.arange(80) % 2 == 0
    cells = _scores.Cells(rows, held, labels)
    good = np.where(labels == "a", 5.0, -5.0)[:, None] + rng.normal(size=(80, 3))
    perfect = _scores.Embedding(good, {"x": good, "y": good})
    noise = {name: rng.normal(size=(80, 3)) for name in rows}
    random = _scores.Embedding(noise["x"], noise)
    found = {s.name: s for s in _scores.embedding_scores(cells, perfect, random)}
    assert found["FOSCTTM, x and y"].model == 0
    assert found["FOSCTTM, x and y"].simple > 0.3
    assert found["matching score, x and y"].model == 1
    assert found["matching score, x and y"].chance == 1 / 40
    assert found["labels, x to y"].model == 1
    assert found["labels, x to y"].chance == 0.5
    assert all(score.beats_chance for score in found.values())
    score = found["labels, x to y"]
    # of right or wrong beside always right, the error of a share
    assert score.error == pytest.approx((score.simple * (1 - score.simple) / 40) ** 0.5)
    clusters = _scores.cluster_score(cells, labels, rng.permutation(labels), seed=0)
    assert clusters.model == pytest.approx(1)
    assert clusters.chance < 0.2


def test_standard_errors_are_those_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    found = _scores.standard_error(lambda rows: float(values[rows].mean()), 400)
    assert found == pytest.approx(values.std() / 20, rel=0.15)


def test_only_what_is_beyond_the_error_is_bold():
    assert _output._number(0.5, 0.4, 0.05, higher=True) == "[bold]0.500[/bold]"
    assert _output._number(0.5, 0.4, 0.2, higher=True) == "0.500"
    assert _output._number(0.5, 0.4, 0.05, higher=False) == "0.500"
    assert _output._number(0.4, 0.5, 0.05, higher=False) == "[bold]0.400[/bold]"


def test_target_is_the_protein_panel():
    data = datasets.simulate_mosaic(60, n_features={"rna": 9, "adt": 12, "atac": 30})
    kinds = {"rna": "rna", "adt": "protein", "atac": "atac"}
    assert _scores.target_modality(data, kinds) == "adt"
    del kinds["adt"]
    assert _scores.target_modality(data, kinds) == "rna"


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with _output.few_threads(10):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
