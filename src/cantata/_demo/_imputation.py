"""How well the demo's model predicts what was not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cantata._demo._baseline import neighbour_means
from cantata._demo._scores import FEWEST_CELLS, HELD_OUT, TRUTH, Cells, Score, correlations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mudata import MuData

    from cantata import CLUE

MOST_FEATURES = 300
"""Of wider modalities, this many of the most abundant features are predicted."""

METHOD = "k-NN"


def target_modality(mdata: MuData, kinds: Mapping[str, str]) -> str:
    """Modality to predict: the first panel of proteins, or else the one with fewest features."""
    proteins = [name for name, kind in kinds.items() if kind == "protein"]
    return proteins[0] if proteins else min(kinds, key=lambda name: mdata[name].n_vars)


class Imputation:
    """Prediction of one modality from another, by a model and by neighbours.

    Parameters
    ----------
    model
        Trained model.
    mdata
        All cells, preprocessed.
    cells
        Which of them were held out.
    target
        Modality to predict.
    records
        What preprocessing recorded of each modality.
    """

    def __init__(
        self,
        model: CLUE,
        mdata: MuData,
        cells: Cells,
        target: str,
        records: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._model, self._mdata, self._cells, self._target = model, mdata, cells, target
        self._reps = {name: str(record["rep"]) for name, record in records.items()}
        self._counts: Any = mdata[target].layers[str(records[target]["counts_layer"])]
        total = np.asarray(self._counts.sum(axis=0)).ravel()
        self._columns = np.sort(np.argsort(-total, kind="stable")[:MOST_FEATURES])

    @property
    def features(self) -> Sequence[str]:
        """Names of the predicted features."""
        return list(self._mdata[self._target].var_names[self._columns])

    def _observed(self, cells: np.ndarray) -> np.ndarray:
        """log1p of the counts, (cells, features)."""
        counts = self._counts[self._cells.rows[self._target][cells]][:, self._columns]
        return np.log1p(counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts))

    def _predicted(self, source: str, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log1p of expected counts by the model, and mean log1p counts of neighbours."""
        imputed = self._model.impute(
            self._target,
            self._mdata,
            source=source,
            features=self.features,
            indices=np.flatnonzero(cells).tolist(),
        )
        rep, rows = self._mdata[source].obsm[self._reps[source]], self._cells.rows[source]
        paired = ~self._cells.held & self._cells.having(source, self._target)
        means = neighbour_means(rep[rows[paired]], self._observed(paired), rep[rows[cells]])
        return np.log1p(np.asarray(imputed.X)), means

    def _score(
        self, section: str, what: str, source: str, cells: np.ndarray, truth: np.ndarray
    ) -> Score:
        ours, neighbours = self._predicted(source, cells)
        return Score(
            section,
            what,
            f"{cells.sum():,}",
            float(correlations(ours, truth).mean()),
            float(correlations(neighbours, truth).mean()),
            METHOD,
            0.0,
        )

    def scores(self, truth: MuData | None) -> Iterator[Score]:
        """Mean Pearson correlation per feature, of log1p values.

        Parameters
        ----------
        truth
            The same cells with expected counts, where they are simulated.
        """
        target = self._target
        for source in self._cells.rows:
            held = self._cells.held & self._cells.having(source, target)
            paired = ~self._cells.held & self._cells.having(source, target)
            if source == target or not paired.any():
                continue
            if held.sum() >= FEWEST_CELLS:
                what = f"{target} from {source}, Pearson r"
                yield self._score(HELD_OUT, what, source, held, self._observed(held))
            never = self._cells.having(source) & ~self._cells.having(target)
            if truth is not None and never.sum() >= FEWEST_CELLS:
                places = truth[target].obs_names.get_indexer(self._mdata.obs_names[never])
                expected = truth[target].layers["truth_expected"][places][:, self._columns]
                what = f"{target} of {source}-only cells, Pearson r"
                yield self._score(TRUTH, what, source, never, np.log1p(expected))
