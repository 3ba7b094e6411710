"""Bad input gets one clear error before the first step, and the MuData stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from linked_mosaics import (
    QUIET,
    SMALL,
    THREE,
    assert_unchanged,
    chain,
    link,
    linked_mosaic,
    snapshot,
    unpaired_member,
)
from mosaics import counts_mosaic, mosaic

from cantata import CLUE, SCMODAL


def circle():
    mdata = chain()
    link(mdata, "adt", "atac")
    return mdata


def linked_not_finite(value: float):
    mdata = linked_mosaic()
    mdata["adt"].obsm["X_linked_rna"][[3, 8], 1] = value
    return mdata


def linked_widths_differ():
    mdata = linked_mosaic()
    mdata["rna"].obsm["X_linked_adt"] = mdata["rna"].obsm["X_linked_adt"][:, :3]
    return mdata


def linked_one_way():
    mdata = linked_mosaic()
    del mdata["adt"].obsm["X_linked_rna"]
    return mdata


def negative():
    mdata = linked_mosaic()
    x = mdata["adt"].X.toarray()
    x[3, 2] = -1.5
    mdata["adt"].X = x
    return mdata


def without_cells():
    mdata = linked_mosaic()
    return mosaic({"rna": mdata["rna"].copy(), "adt": mdata["adt"][:0].copy()})


LINK = r"cantata\.pp\.link_features\(mdata, "
SETUP = {
    "nothing is linked": (
        counts_mosaic,
        {},
        ValueError,
        rf"None of the modalities \['rna', 'adt'\] are linked.*{LINK}",
    ),
    "a modality is not linked": (
        lambda: linked_mosaic(THREE, [("adt", "rna")], member=np.ones((60, 3), dtype=bool)),
        {},
        ValueError,
        rf"nothing links the modalities \[\['adt', 'rna'\], \['atac'\]\].*{LINK}",
    ),
    "a chosen pair is not linked": (
        chain,
        {"pairs": [("adt", "rna"), ("adt", "atac")]},
        KeyError,
        rf"mdata\['adt'\].obsm has no 'X_linked_atac'.*{LINK}'adt', 'atac'",
    ),
    "one side alone is linked": (
        linked_one_way,
        {"pairs": [("rna", "adt")]},
        KeyError,
        rf"mdata\['adt'\].obsm has no 'X_linked_rna'.*{LINK}'adt', 'rna'",
    ),
    "links in a circle": (
        circle,
        {},
        ValueError,
        r"chain or tree of 3 modalities, with 2 pairs; leave out 1: setup_mudata\(mdata, pairs=",
    ),
    "a pair twice": (
        linked_mosaic,
        {"pairs": [("rna", "adt"), ("adt", "rna")]},
        ValueError,
        "chain or tree of 2 modalities, with 1 pairs; leave out 1",
    ),
    "pairs leave a modality out": (
        chain,
        {"pairs": [("adt", "rna")]},
        ValueError,
        r"nothing links the modalities \[\['adt', 'rna'\], \['atac'\]\]",
    ),
    "a modality with itself": (
        linked_mosaic,
        {"pairs": [("rna", "rna")]},
        ValueError,
        r"nothing links the modalities \[\['rna'\], \['adt'\]\]",
    ),
    "unknown name in pairs": (
        linked_mosaic,
        {"pairs": [("rna", "protein")]},
        KeyError,
        r"'protein' is not one of \['rna', 'adt'\]",
    ),
    "one modality": (
        linked_mosaic,
        {"modalities": ["rna"]},
        ValueError,
        r"SCMODAL aligns modalities; \['rna'\] is only one",
    ),
    "linked features with NaN": (
        lambda: linked_not_finite(np.nan),
        {},
        ValueError,
        rf"'adt' are not finite for 2 cells, e.g. 'c\d+'.*{LINK}'rna', 'adt'",
    ),
    "linked features that are infinite": (
        lambda: linked_not_finite(np.inf),
        {},
        ValueError,
        "'adt' are not finite for 2 cells",
    ),
    "linked features of two widths": (
        linked_widths_differ,
        {},
        ValueError,
        rf"'rna' and 'adt' have 3 and 4 linked features.*{LINK}'rna', 'adt'",
    ),
    "no cells": (without_cells, {}, ValueError, r"'adt' has 0 cells.*modalities=\[\.\.\.\]"),
    "unknown layer": (linked_mosaic, {"layers": {"rna": "raw"}}, KeyError, r"'rna': 'raw'"),
    "unknown batch key": (linked_mosaic, {"batch_key": "site"}, KeyError, "batch_key='site'"),
    "unknown modality": (linked_mosaic, {"modalities": ["rna", "x"]}, KeyError, r"\['x'\]"),
}


@pytest.mark.parametrize("case", SETUP)
def test_setup_refuses_and_changes_nothing(case: str) -> None:
    make, arguments, error, message = SETUP[case]
    mdata = make()
    before = snapshot(mdata)
    with pytest.raises(error, match=f"(?s){message}"):
        SCMODAL.setup_mudata(mdata, **arguments)
    assert_unchanged(mdata, before)


MODEL = {
    "unknown transform": (
        linked_mosaic,
        {"transforms": "sqrt"},
        ValueError,
        r"transforms=\{'rna': 'sqrt'\} is none of 'auto', None and .*'arcsinh'",
    ),
    "unknown transform of one": (
        linked_mosaic,
        {"transforms": {"adt": "z"}},
        ValueError,
        r"\{'adt': 'z'\}",
    ),
    "transform of an unknown modality": (
        linked_mosaic,
        {"transforms": {"atac": "log1p"}},
        KeyError,
        r"transforms names modalities that are not used: \['atac'\]",
    ),
    "negative values and log1p": (
        negative,
        {"transforms": {"adt": "log1p"}},
        ValueError,
        r"'adt' has 1 negative values, e.g. in cell 'c\d+'.*'log1p'.*\{'adt': 'arcsinh'\}",
    ),
    "negative values and centred log ratio": (
        negative,
        {"transforms": {"adt": "clr"}},
        ValueError,
        "'adt' has 1 negative values",
    ),
    "chromatin by feature": (
        chain,
        {"n_components": None, "transforms": {"atac": "tfidf"}},
        ValueError,
        r"'atac' has 9 features and n_components=None.*Give n_components.*'log1p'",
    ),
    "chromatin with few features": (
        chain,
        {"transforms": {"atac": "tfidf"}, "n_components": 9},
        ValueError,
        "'atac' has 9 features and n_components=9",
    ),
    "unknown weights": (
        linked_mosaic,
        {"weight_init": "zeros"},
        ValueError,
        "weight_init='zeros' is neither",
    ),
}


@pytest.mark.parametrize("case", MODEL)
def test_constructor_refuses_and_changes_nothing(case: str) -> None:
    make, arguments, error, message = MODEL[case]
    mdata = make()
    before = snapshot(mdata)
    SCMODAL.setup_mudata(mdata)
    with pytest.raises(error, match=f"(?s){message}"):
        SCMODAL(mdata, **(SMALL | arguments))
    assert_unchanged(mdata, before)


def no_pairs():
    return linked_mosaic(member=unpaired_member(60, 2))


TRAIN = {
    "steps and epochs": (
        linked_mosaic,
        {"max_steps": 5, "max_epochs": 1},
        ValueError,
        "max_epochs=1 and max_steps=5.*give one.*100 steps",
    ),
    "no steps": (linked_mosaic, {"max_steps": 0}, ValueError, "at least 1, got 0"),
    "negative epochs": (linked_mosaic, {"max_epochs": -1}, ValueError, "at least 1, got -1"),
    "half a step": (linked_mosaic, {"max_steps": 2.5}, TypeError, "max_steps must be an integer"),
    "cells by name": (linked_mosaic, {"batch_size": "9"}, TypeError, "batch_size must be an int"),
    "no paired cells": (
        no_pairs,
        {"use_paired": True},
        ValueError,
        r"none of 60 cells has two of the linked modalities \[\('rna', 'adt'\)\].*obs_names",
    ),
    "a weight of pairs without pairs": (
        linked_mosaic,
        {"plan_kwargs": {"lambda_paired": 2.0}},
        ValueError,
        r"lambda_paired needs train\(use_paired=True\)",
    ),
    "unknown weight": (
        linked_mosaic,
        {"plan_kwargs": {"lambda_mnn": 1.0}},
        TypeError,
        r"unknown names: \['lambda_mnn'\].*lambda_anchor",
    ),
    "unknown schedule": (
        linked_mosaic,
        {"plan_kwargs": {"lr_schedule": "step"}},
        ValueError,
        "lr_schedule='step' is neither 'constant' nor 'cosine'",
    ),
    "negative refinements": (
        linked_mosaic,
        {"n_refinements": -1},
        ValueError,
        "n_refinements must be at least 0, got -1",
    ),
    "cells to hold out": (
        linked_mosaic,
        {"train_size": 0.9},
        ValueError,
        r"train_size=0.9: SCMODAL trains on all cells.*Leave train_size out; max_steps",
    ),
    "cells to validate on": (
        linked_mosaic,
        {"validation_size": 0.1},
        ValueError,
        "validation_size=0.1: SCMODAL trains on all cells",
    ),
    "early stopping": (
        linked_mosaic,
        {"early_stopping": True},
        ValueError,
        "early_stopping=True: SCMODAL trains on all cells.*nothing to validate on",
    ),
    "no cells in a step": (linked_mosaic, {"batch_size": 0}, ValueError, "batch_size must be at"),
}


class Untouched(Callback):
    def on_train_start(self, *_) -> None:
        raise AssertionError("training has begun")


@pytest.mark.parametrize("case", TRAIN)
def test_train_refuses_before_the_first_step(case: str) -> None:
    make, arguments, error, message = TRAIN[case]
    mdata = make()
    before = snapshot(mdata)
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, **SMALL)
    with pytest.raises(error, match=f"(?s){message}"):
        model.train(**QUIET | {"callbacks": [Untouched()]} | arguments)
    assert not model.is_trained
    assert not model.has_inputs_  # before any work
    assert_unchanged(mdata, before)


def test_what_is_done_anyway_can_be_asked_for() -> None:
    mdata = linked_mosaic()
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, **SMALL)
    model.train(max_steps=1, train_size=1.0, validation_size=0, early_stopping=False, **QUIET)
    assert model.is_trained


def test_a_step_has_no_more_cells_than_there_are(monkeypatch) -> None:
    """A million cells of each modality would need matrices of terabytes."""
    mdata = linked_mosaic()
    SCMODAL.setup_mudata(mdata)
    model, sizes = SCMODAL(mdata, **SMALL), []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, plan, batch, _) -> None:
            sizes.extend(len(batch[name]) for name in mdata.mod)

    model.train(max_steps=2, callbacks=[Seen()], **QUIET | {"batch_size": 10**6})
    assert set(sizes) == {max(mdata[name].n_obs for name in mdata.mod)}


def gone(mdata) -> None:
    del mdata["adt"].obsm["X_linked_rna"]


def narrower(mdata) -> None:
    mdata["adt"].obsm["X_linked_rna"] = mdata["adt"].obsm["X_linked_rna"][:, :2]


def not_a_number(mdata) -> None:
    mdata["rna"].obsm["X_linked_adt"][0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (gone, KeyError, r"mdata\['adt'\].obsm has no 'X_linked_rna'"),
        (narrower, ValueError, "4 and 2 linked features"),
        (not_a_number, ValueError, "'rna' are not finite for 1 cells"),
    ],
)
def test_linked_features_that_change_after_setup(change, error, message: str) -> None:
    mdata = linked_mosaic()
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, **SMALL)
    change(mdata)
    with pytest.raises(error, match=message):
        model.train(max_steps=1, callbacks=[Untouched()], **QUIET)
    assert not model.has_inputs_


def test_values_that_do_not_vary() -> None:
    mdata = linked_mosaic()
    mdata["adt"].X = np.ones(mdata["adt"].shape, np.float32)
    SCMODAL.setup_mudata(mdata)
    model = SCMODAL(mdata, **SMALL)
    with pytest.raises(ValueError, match="'adt' has no feature that varies"):
        model.train(max_steps=1, callbacks=[Untouched()], **QUIET)


def test_values_are_refused_as_everywhere() -> None:
    mdata = linked_mosaic()
    x = mdata["adt"].X.toarray()
    x[3, 2] = np.nan
    mdata["adt"].X = x
    with pytest.raises(ValueError, match=r"'adt' has 1 NaN or infinite values"):
        SCMODAL.setup_mudata(mdata)
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        SCMODAL.setup_mudata(mdata["rna"])
    with pytest.raises(ValueError, match=r"is a view.*copy"):
        SCMODAL.setup_mudata(linked_mosaic()[:20])


def test_negative_values_train_as_they_are_and_as_arcsinh() -> None:
    for transforms in ("auto", {"adt": "arcsinh"}, {"adt": None}):
        mdata = negative()
        SCMODAL.setup_mudata(mdata)
        model = SCMODAL(mdata, transforms=transforms, **SMALL)
        expected = "arcsinh" if "arcsinh" in str(transforms) else "identity"
        assert model.module.input("adt").transform == expected
        assert model.module.input("rna").transform == "log1p"
        model.train(max_steps=1, **QUIET)
        assert np.isfinite(model.get_latent_representation()).all()


def test_auto_follows_what_counts_measure() -> None:
    mdata = chain()
    SCMODAL.setup_mudata(mdata)
    for transforms in ("auto", {}, {"rna": "auto"}):
        model = SCMODAL(mdata, transforms=transforms, n_components=5, **SMALL)
        found = {m: model.module.input(m).transform for m in THREE}
        assert found == {"adt": "clr", "rna": "log1p", "atac": "tfidf"}
    model = SCMODAL(mdata, transforms=None, **SMALL)
    assert {model.module.input(m).transform for m in THREE} == {"identity"}


def test_without_pairs_clue_names_scmodal() -> None:
    mdata = no_pairs()
    CLUE.setup_mudata(mdata)
    with pytest.raises(ValueError, match="SCMODAL"):
        CLUE(mdata)


def test_an_untrained_model_warns() -> None:
    mdata = linked_mosaic()
    SCMODAL.setup_mudata(mdata)
    with pytest.warns(UserWarning, match="untrained"):
        SCMODAL(mdata, **SMALL).get_latent_representation()
