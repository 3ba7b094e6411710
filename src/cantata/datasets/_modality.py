"""One simulated modality: its features, its names, its counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cantata.datasets._counts import draw_counts, library_sizes
from cantata.datasets._design import Kind, stream
from cantata.datasets._latent import ASSAYS, Cells, Features, draw_features, link_to_genes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scipy import sparse

SparseFormat = Literal["csr", "csc", "dense"]


def feature_names(name: str, n: int, kinds: Mapping[str, Kind]) -> list[str]:
    """Such as ``gene007``; with the modality in front where two modalities are of one kind."""
    prefix = f"{name}_" if list(kinds.values()).count(kinds[name]) > 1 else ""
    return [f"{prefix}{ASSAYS[kinds[name]].feature}{j:0{len(str(n - 1))}d}" for j in range(n)]


def draw_linked_features(
    features: Mapping[str, int], kinds: Mapping[str, Kind], seed: int, **sizes: Any
) -> tuple[dict[str, Features], str | None]:
    """Parameters of every modality, and the name of the one that the links start from."""
    drawn = {
        name: draw_features(kinds[name], width, rng=stream(seed, f"{name}/features"), **sizes)
        for name, width in features.items()
    }
    source = next((name for name in features if kinds[name] == "rna"), None)
    if source is not None:
        for name in features:
            if kinds[name] != "rna":
                rng = stream(seed, f"{name}/links")
                link_to_genes(drawn[name], drawn[source], kinds[name], rng)
    return drawn, source


def links_table(
    drawn: Mapping[str, Features], names: Mapping[str, list[str]], source: str | None
) -> pd.DataFrame:
    columns = ["source_modality", "source", "target_modality", "target"]
    rows = [
        (source, names[source][gene], name, names[name][j])
        for name, features in drawn.items()
        if source is not None
        for j, gene in enumerate(features.gene)
        if gene >= 0
    ]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def var_table(features: Features, names: list[str], genes: list[str] | None) -> pd.DataFrame:
    """Feature table; the column ``gene`` holds the linked gene, ``""`` for none."""
    var = pd.DataFrame(index=pd.Index(names))
    if genes is not None:
        var["gene"] = [genes[g] if g >= 0 else "" for g in features.gene]
    return var


def _as_format(counts: sparse.csr_matrix, sparse_format: SparseFormat) -> Any:
    if sparse_format == "dense":
        return counts.toarray()
    return counts if sparse_format == "csr" else counts.tocsc()


def draw_modality(
    name: str,
    kind: Kind,
    features: Features,
    cells: Cells,
    *,
    measured: np.ndarray,
    depth: float,
    seed: int,
    sparse_format: SparseFormat,
    shuffle: bool,
    keep_expected: bool,
) -> AnnData:
    """Counts of the measured cells, the modality's own factors, expected counts if asked for."""
    n_cells, n_private = len(cells.names), features.private.shape[1]
    private = stream(seed, f"{name}/private").normal(size=(n_cells, n_private))
    library = library_sizes(
        kind, n_cells, len(features.gene), depth, stream(seed, f"{name}/library")
    )
    counts, expected = draw_counts(
        kind,
        features,
        shared=cells.shared,
        private=private,
        batch=cells.batch,
        library=library,
        measured=measured,
        keep_expected=keep_expected,
        rng=stream(seed, f"{name}/counts"),
    )
    order = np.arange(counts.shape[0])
    if shuffle:
        order = stream(seed, f"{name}/rows").permutation(order)
    rows = np.flatnonzero(measured)[order]
    obs = pd.DataFrame(index=cells.names[rows])
    adata = AnnData(_as_format(counts[order], sparse_format), obs=obs)
    adata.obsm["truth_private"] = private[rows].astype(np.float32)
    if expected is not None:
        adata.layers["truth_expected"] = expected[order]
    return adata
