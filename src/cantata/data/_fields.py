"""Values and annotations of cells as scvi-tools fields that read, but never write, a MuData."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from scvi.data.fields import BaseAnnDataField, MuDataLayerField, MuDataObsmField

from cantata import _compat
from cantata._keys import BATCH, LABELS, rep_key
from cantata._mudata.checks import MatrixStats, check_finite, check_like_source, matrix_stats
from cantata._mudata.images import (
    StainImages,
    check_chunks,
    check_images,
    holds_integers,
    image_layout,
    image_stats,
    stain_limits,
)
from cantata._mudata.obs import category_names, check_groups, coalesce_obs
from cantata._mudata.panels import has_only_whole_nan, without_nan
from cantata._mudata.values import matrix_of, recipe_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import rich.table
    from mudata import MuData

MAX_RANGE_RATIO = 3.0
"""Between the ranges of images of new data and of a model's, beyond which there is a warning."""


class MosaicValuesField(MuDataLayerField):
    """Values of a modality, which new data must match in features and in kind.

    Its state holds what one pass over the values found (``stats``), and what it found in the data
    of the first set-up (``source_stats``), see :class:`~cantata._mudata.checks.MatrixStats`;
    and whether NaN says that a batch did not measure a feature (``has_nan``), which is read as 0.
    """

    def __init__(
        self,
        modality: str,
        layer: str | None,
        batch_key: str | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self._batch_key, self._modalities = batch_key, modalities
        super().__init__(
            modality,
            layer,
            mod_key=modality,
            mod_required=True,
            is_count_data=False,
            correct_data_format=False,
        )

    def _stats(self, mdata: MuData) -> tuple[MatrixStats, bool]:
        """What the values are, and whether NaN says that a batch did not measure a feature."""
        adata = mdata[self.registry_key]
        values = matrix_of(mdata, self.registry_key, self.attr_key)
        stats = matrix_stats(values, adata.obs_names, adata.n_vars)
        if not stats.n_nonfinite or self._batch_key is None:
            return stats, False
        batch = coalesce_obs(mdata, self._batch_key, self._modalities)[adata.obs_names]
        codes, found = pd.factorize(batch.map(str))
        if not has_only_whole_nan(values, codes, len(found)):
            return stats, False
        return matrix_stats(without_nan(values), adata.obs_names, adata.n_vars), True

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Features and what their values are; a ``ValueError`` where these are not finite."""
        stats, has_nan = self._stats(mdata)
        check_finite(self.registry_key, stats)
        found = {"stats": asdict(stats), "source_stats": asdict(stats), "has_nan": has_nan}
        return super().register_field(mdata) | found

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """The same of new data, whose features are those of the source in the same order."""
        state = super().register_field(mdata_target)
        if not np.array_equal(state["column_names"], state_registry["column_names"]):
            raise ValueError(
                f"Modality {self.registry_key!r} has other features than the model, or in "
                "another order. Line them up: mdata = "
                "prepare_query_mudata(mdata, model)."
            )
        (stats, has_nan), source = self._stats(mdata_target), state_registry["source_stats"]
        if mdata_target[self.registry_key].n_obs:
            check_like_source(self.registry_key, stats, MatrixStats(**source))
        return state | {"stats": asdict(stats), "source_stats": source, "has_nan": has_nan}


class MosaicImagesField(MuDataObsmField):
    """Images of a modality's cells, which new data must match in stains and size.

    Its state holds the names of the stains, the side of the images, the values that become 0 and
    1 (``limits``, of the data of the first set-up), whether masks cut the background off, and
    what one pass over the images found.
    """

    def __init__(self, modality: str, key: str, *, mask_background: bool = False) -> None:
        self._mask_background = mask_background
        super().__init__(
            modality, key, mod_key=modality, mod_required=True, correct_data_format=False
        )

    def read(self, mdata: MuData, state: dict[str, Any]) -> StainImages:
        """Images of all cells of the modality, to be read as they are needed."""
        adata = mdata[self.mod_key]
        layout = image_layout(self.mod_key, adata, self.attr_key)
        return StainImages(
            adata.obsm[self.attr_key],
            layout,
            state["limits"],
            mask_background=state["mask_background"],
        )

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Stains, size, range, and what one pass found; a ``ValueError`` where it is no image."""
        layout = image_layout(self.mod_key, mdata[self.mod_key], self.attr_key)
        if self._mask_background and not layout.masks:
            raise ValueError(
                f"mask_background=True: modality {self.mod_key!r} has no mask. Channels are masks "
                "where .var['channel_mapping'] says 'mask'."
            )
        array = mdata[self.mod_key].obsm[self.attr_key]
        check_chunks(self.mod_key, array)
        limits = stain_limits(array, layout)
        return self._state(mdata, layout, limits, self._mask_background)

    def _state(self, mdata: MuData, layout: Any, limits: Any, masked: bool) -> dict[str, Any]:
        state = {
            "column_names": np.asarray(layout.stains, dtype=object),
            "side": layout.side,
            "limits": limits,
            "mask_background": masked,
        }
        # a dim image is no empty one, though all of it may be below the range of its stain
        raw = self.read(mdata, state | {"limits": None})
        names = mdata[self.mod_key].obs_names
        stats = image_stats(raw, names, integers=limits is not None)
        check_images(self.mod_key, stats)
        return state | {"stats": asdict(stats)}

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """The same of new data, whose stains and size are those of the source."""
        adata, source = mdata_target[self.mod_key], state_registry
        layout = image_layout(self.mod_key, adata, self.attr_key)
        if not np.array_equal(layout.stains, source["column_names"]):
            raise ValueError(
                f"Modality {self.mod_key!r} has the stains {list(layout.stains)}, the model "
                f"{list(source['column_names'])}. Line them up: mdata = "
                "prepare_query_mudata(mdata, model)."
            )
        if layout.side != source["side"]:
            raise ValueError(
                f"Images of modality {self.mod_key!r} have {layout.side} pixels a side, those of "
                f"the model {source['side']}. Crop or pad them to that size."
            )
        array = adata.obsm[self.attr_key]
        if adata.n_obs and holds_integers(array) != (source["limits"] is not None):
            raise ValueError(
                f"Images of modality {self.mod_key!r} are {np.dtype(array.dtype)}, and the model "
                "was set up with " + ("floats" if source["limits"] is None else "integers") + ". "
                "Store them in the same way."
            )
        if adata.n_obs and source["limits"] is not None:
            own = cast("np.ndarray", stain_limits(array, layout))[:, 1]
            of_model = source["limits"][:, 1]
            if (np.abs(np.log(own / of_model)) > np.log(MAX_RANGE_RATIO)).any():
                warnings.warn(
                    f"Stains {list(layout.stains)} of modality {self.mod_key!r} reach {own}, in "
                    f"the data of the model {of_model}, by which they are scaled to [0, 1]. If "
                    "they were stored in another way, bring them to the range of the latter.",
                    UserWarning,
                    stacklevel=2,
                )
        return self._state(mdata_target, layout, source["limits"], source["mask_background"])


class MosaicRepField(MuDataObsmField):
    """Representation of a modality; its state says which :func:`cantata.pp.preprocess` made it."""

    def __init__(self, modality: str, key: str) -> None:
        super().__init__(
            rep_key(modality),
            key,
            mod_key=modality,
            mod_required=True,
            correct_data_format=False,
        )

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Names of the columns, and the recipe where one is recorded."""
        recipe = recipe_of(self.get_modality(mdata), self.attr_key)
        with _compat.quiet("scvi.data.fields"):  # which says that columns are numbered
            return super().register_field(mdata) | {"recipe": recipe}

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """The same of new data, which must have been made by the same recipe."""
        state, name = self.register_field(mdata_target), self.mod_key
        n_columns, n_before = (len(s["column_names"]) for s in (state, state_registry))
        if n_columns != n_before:
            raise ValueError(
                f"mdata[{name!r}].obsm[{self.attr_key!r}] has {n_columns} columns, the model's "
                f"{n_before}."
            )
        recipes = {state["recipe"], state_registry["recipe"]}
        if mdata_target[name].n_obs and None not in recipes and len(recipes) > 1:
            raise ValueError(
                f"mdata[{name!r}].obsm[{self.attr_key!r}] was made by another run of preprocess "
                "than the one that the model was set up with. Project the counts as then: "
                "cantata.pp.preprocess(query, reference=mdata)."
            )
        return state | {"recipe": state_registry["recipe"]}


class MosaicObsField(BaseAnnDataField):
    """One value per cell of the union, found at MuData or at modality level.

    Unlike the scvi-tools fields it stores no column in the data: the values are looked up when a
    dataset is made.

    Parameters
    ----------
    registry_key
        Name under which models know the field.
    key
        Column to look for; None gives an empty field.
    modalities
        Modalities whose ``.obs`` may hold the column.
    argument
        Name of the user's argument, for errors.
    """

    _top_alone = False
    """Whether a column at the top of the MuData is not completed by those of modalities."""

    def __init__(
        self, registry_key: str, key: str | None, modalities: Sequence[str], argument: str
    ) -> None:
        super().__init__()
        self._registry_key = registry_key
        self.key = key
        self.modalities = list(modalities)
        self.argument = argument

    @property
    def registry_key(self) -> str:
        return self._registry_key

    @property
    def attr_name(self) -> str:
        return "obs"

    @property
    def attr_key(self) -> str | None:
        return self.key

    @property
    def is_empty(self) -> bool:
        return self.key is None

    def column(self, mdata: MuData, *, allow_missing: bool = False) -> pd.Series:
        """The column, one value per cell of the union; none may be missing unless allowed."""
        assert self.key is not None
        present = [name for name in self.modalities if name in mdata.mod]
        column = coalesce_obs(
            mdata, self.key, present, argument=self.argument, top_alone=self._top_alone
        )
        missing = np.flatnonzero(column.isna())
        if missing.size and not allow_missing:
            raise ValueError(
                f"{self.argument}={self.key!r} has no value for {missing.size} of {len(column)} "
                f"cells, e.g. {column.index[missing[0]]!r}. Fill the column in first."
            )
        return column

    def is_present(self, mdata: MuData) -> bool:
        """Whether the column exists anywhere."""
        try:
            self.column(mdata, allow_missing=True)
        except KeyError:
            return False
        return True

    def validate_field(self, mdata: MuData) -> None:
        """Nothing beyond what :meth:`register_field` checks."""

    def read(self, mdata: MuData, state_registry: dict[str, Any]) -> np.ndarray:
        """Values of all cells of the union as the minibatches carry them."""
        raise NotImplementedError

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        """Scvi-tools prints nothing for this field."""
        return None


class MosaicCategoricalField(MosaicObsField):
    """Categories of cells as integer codes; -1 for a missing label where that is allowed."""

    def __init__(
        self,
        registry_key: str,
        key: str | None,
        modalities: Sequence[str],
        argument: str,
        *,
        allow_missing: bool = False,
    ) -> None:
        super().__init__(registry_key, key, modalities, argument)
        self.allow_missing = self._top_alone = allow_missing

    def _values(self, mdata: MuData) -> pd.Series:
        return category_names(self.column(mdata, allow_missing=self.allow_missing))

    def _state(self, categories: Sequence[str], absent: bool = False) -> dict[str, Any]:
        mapping = np.asarray(list(categories), dtype=object)
        return {"categorical_mapping": mapping, "original_key": self.key, "absent": absent}

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Sorted categories of the column."""
        values = self._values(mdata)
        categories = sorted(values.dropna().unique())
        check_groups(values, self.argument, str(self.key))
        if not categories:
            raise ValueError(f"{self.argument}={self.key!r} has no value for any cell.")
        return self._state(categories)

    def transfer_field(
        self,
        state_registry: dict[str, Any],
        mdata_target: MuData,
        extend_categories: bool = False,
        allow_absent: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Categories of the source, followed by new ones where they may be added.

        New labels are unknown labels. Labels may be missing altogether, and with `allow_absent`
        the batch, for which a decoder can be given another one.
        """
        known = list(state_registry["categorical_mapping"])
        may_be_absent = self.allow_missing or (allow_absent and self.registry_key == BATCH)
        if may_be_absent and not self.is_present(mdata_target):
            return self._state(known, absent=True)
        new = sorted(set(self._values(mdata_target).dropna().unique()) - set(known))
        if self.allow_missing:
            return self._state(known)
        if new and not extend_categories:
            raise ValueError(
                f"{self.argument}={self.key!r} holds {len(new)} categories that the model does "
                f"not know, e.g. {new[0]!r}. Map such cells with load_query_data."
            )
        return self._state(known + new)

    def read(self, mdata: MuData, state_registry: dict[str, Any]) -> np.ndarray:
        """Codes of shape (n_obs,), int64; -1 where there is no known value."""
        if state_registry["absent"]:
            return np.full(mdata.n_obs, -1, dtype=np.int64)
        categories = list(state_registry["categorical_mapping"])
        codes = pd.Categorical(self._values(mdata), categories=categories).codes
        return np.asarray(codes, dtype=np.int64)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Number of categories."""
        return {f"n_{self.registry_key}": len(state_registry["categorical_mapping"])}


class MosaicNumericalField(MosaicObsField):
    """A number per cell, standardised by the moments of the cells it was set up with."""

    def _numbers(self, mdata: MuData) -> np.ndarray:
        column = self.column(mdata)
        try:
            numbers = column.to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{self.argument}={self.key!r} is not numeric, e.g. {column.iloc[0]!r}. "
                "Pass it as a categorical covariate instead."
            ) from error
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            raise ValueError(
                f"{self.argument}={self.key!r} is not finite for {bad.size} cells, "
                f"e.g. {column.index[bad[0]]!r}."
            )
        return numbers

    def register_field(self, mdata: MuData) -> dict[str, Any]:
        """Mean and standard deviation over the union of cells."""
        numbers = self._numbers(mdata)
        return {
            "original_key": self.key,
            "mean": float(numbers.mean()),
            "std": float(numbers.std()) or 1.0,
        }

    def transfer_field(
        self, state_registry: dict[str, Any], mdata_target: MuData, **kwargs: Any
    ) -> dict[str, Any]:
        """Keep the moments of the source."""
        self._numbers(mdata_target)
        return dict(state_registry)

    def read(self, mdata: MuData, state_registry: dict[str, Any]) -> np.ndarray:
        """Standardised values of shape (n_obs,), float32."""
        numbers = (self._numbers(mdata) - state_registry["mean"]) / state_registry["std"]
        return numbers.astype(np.float32)

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """No statistic."""
        return {}


def registered_fields(arguments: Mapping[str, Any]) -> list[Any]:
    """Fields for completed arguments of ``setup_mudata``."""
    names, layers, batch_key = (arguments[k] for k in ("modalities", "layers", "batch_key"))
    images, masked = arguments.get("images", {}), arguments.get("mask_background", False)
    fields: list[Any] = [
        MosaicImagesField(m, images[m], mask_background=masked)
        if m in images
        else MosaicValuesField(m, layers[m], batch_key, names)
        for m in names
    ]
    fields += [MosaicRepField(name, key) for name, key in arguments["reps"].items()]
    if batch_key is not None:
        fields.append(MosaicCategoricalField(BATCH, batch_key, names, "batch_key"))
    if arguments["labels_key"] is not None:
        fields.append(
            MosaicCategoricalField(
                LABELS, arguments["labels_key"], names, "labels_key", allow_missing=True
            )
        )
    for kind, field_cls in (
        ("categorical", MosaicCategoricalField),
        ("continuous", MosaicNumericalField),
    ):
        argument = f"{kind}_covariate_keys"
        fields += [field_cls(f"{kind}_{key}", key, names, argument) for key in arguments[argument]]
    return fields
