"""What is refused before the first epoch, and how the error helps."""

from __future__ import annotations

import numpy as np
import pytest
from apollo_models import QUIET, SMALL, counts_mosaic

from cantata import APOLLO


def registered(**setup):
    mdata = counts_mosaic()
    APOLLO.setup_mudata(mdata, **setup)
    return mdata


def test_modalities_that_no_cell_connects() -> None:
    member = np.zeros((60, 2), dtype=bool)
    member[:30, 0] = member[30:, 1] = True
    mdata = counts_mosaic(member=member)
    APOLLO.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"0 of 60 cells.*APOLLO learns from paired.*SCMODAL"):
        APOLLO(mdata)


def test_too_few_cells_with_all_modalities() -> None:
    member = np.zeros((60, 2), dtype=bool)
    member[:32, 0] = member[28:, 1] = True
    mdata = counts_mosaic(member=member)
    APOLLO.setup_mudata(mdata)
    model = APOLLO(mdata, **SMALL)
    with pytest.raises(ValueError, match=r"training cells have all of .* start='normal'"):
        model.train(**QUIET)
    assert not model.is_trained_


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"losses": "cosine"}, ValueError, "choose from"),
        ({"losses": {"protein": "bce"}}, KeyError, "protein"),
        ({"n_specific": {"protein": 3}}, KeyError, "protein"),
        ({"n_specific": -1}, ValueError, "n_specific"),
        ({"n_shared": 0}, ValueError, "n_shared"),
        ({"start": "random"}, ValueError, "canonical"),
        ({"transforms": "sqrt"}, ValueError, "sqrt"),
    ],
)
def test_arguments_of_the_model(options, error, message) -> None:
    with pytest.raises(error, match=message):
        APOLLO(registered(), **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"plan_kwargs": {"lambda_gan": 1.0}}, TypeError, "lambda_gan"),
        ({"plan_kwargs": {"row_updates": "none"}}, ValueError, "row_updates"),
        ({"plan_kwargs": {"lr_schedule": "linear"}}, ValueError, "lr_schedule"),
        ({"train_size": 1.5}, ValueError, "train_size"),
    ],
)
def test_arguments_of_training(options, error, message) -> None:
    model = APOLLO(registered(), **SMALL)
    with pytest.raises(error, match=message):
        model.train(**(QUIET | options))
    assert not model.is_trained_


def test_values_that_are_no_counts_under_a_count_likelihood() -> None:
    mdata = counts_mosaic()
    mdata["adt"].X = mdata["adt"].X * 0.5
    APOLLO.setup_mudata(mdata)
    with pytest.raises(ValueError, match="adt"):
        APOLLO(mdata, losses={"adt": "nb"})


@pytest.mark.parametrize("argument", ["reps", "labels_key", "pairs"])
def test_setup_arguments_that_it_has_no_use_for(argument) -> None:
    values = {"reps": {"rna": "X_pca"}, "labels_key": "group", "pairs": [("rna", "adt")]}
    with pytest.raises(ValueError, match=r"APOLLO (has no use for|does not use)"):
        APOLLO.setup_mudata(counts_mosaic(), **{argument: values[argument]})


def test_arguments_of_results() -> None:
    model = APOLLO(registered(), **SMALL)
    model.train(**QUIET)
    with pytest.raises(ValueError, match="space='both'"):
        model.get_latent_representation(space="both")
    with pytest.raises(KeyError, match="protein"):
        model.get_latent_representation(modality="protein")
    with pytest.raises(KeyError, match="protein"):
        model.get_latent_table("protein")
    with pytest.raises(ValueError, match="library_size=5"):
        model.impute("adt", library_size=5)
    with pytest.raises(ValueError, match="neither 'full' nor 'shared'"):
        model.get_reconstruction("adt", space="specific")
    with pytest.raises(ValueError, match="have no 'rna'"):
        model.impute("adt", source="rna", indices=np.arange(60))
    squared = APOLLO(registered(), losses="mse", **SMALL)
    squared.train(**QUIET)
    with pytest.raises(ValueError, match="registered units as they are"):
        squared.impute("adt", calibrate=False)
