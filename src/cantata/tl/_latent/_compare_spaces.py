"""In which latent spaces features, or sets of genes, change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from cantata.tl._latent._interpretation import LatentInterpretation

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_Q = 0.05
"""Largest q of a set of genes that counts."""
ROUNDING = 1e-9


def compare_spaces(
    spaces: Mapping[str, LatentInterpretation],
    *,
    kind: Literal["features", "gene_sets"] = "features",
    variance: float = 0.7,
) -> pd.DataFrame:
    """Share of the components of each space along which a feature, or a set of genes, changes.

    It says what modalities share and what each has for itself, in terms of features: Zhang et al.
    2026, Fig. 2d, 2e and 4b, where the shares of two spaces are divided by their sum. A feature
    changes along a component if it is significant in one of the
    groups of cells, in the share of splits (``min_share``) that :func:`interpret_latent` was
    asked for, and a set if it is enriched in one of them (q at most .05).

    Parameters
    ----------
    spaces
        For each space, by any name, what :func:`interpret_latent` says of it.
    kind
        ``"features"`` or ``"gene_sets"``.
    variance
        The first components of a space that hold this share of its variance count, as far as they
        were interpreted. 1: all that were.

    Returns
    -------
    Table of features or sets x spaces, of those that change in any, by their largest share.

    Raises
    ------
    TypeError
        If `spaces` holds anything else.
    ValueError
        If `spaces` is empty, `kind` is neither, `variance` is no share, spaces were interpreted by
        features of different modalities, or sets are wanted of a space that was interpreted
        without them.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(n_cells=400, pairing="full")
    >>> mdata["rna"].obsm["X"] = mdata["rna"].X[:, :4].toarray()
    >>> found = cantata.tl.interpret_latent(mdata, "rna", use_rep="X", n_splits=2, train_size=0.5)
    >>> table = cantata.tl.compare_spaces({"genes": found})
    >>> list(table.columns), bool(table["genes"].between(0, 1).all())
    (['genes'], True)
    """
    if kind not in ("features", "gene_sets"):
        raise ValueError(f"kind={kind!r} is neither 'features' nor 'gene_sets'.")
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance} must be above 0 and at most 1.")
    if not spaces:
        raise ValueError("spaces is empty; give what tl.interpret_latent says of each.")
    wrong = {k: type(v).__name__ for k, v in spaces.items() if not _is_interpretation(v)}
    if wrong:
        raise TypeError(f"spaces holds {wrong}; give what tl.interpret_latent returns.")
    modalities = {name: found.parameters["modality"] for name, found in spaces.items()}
    if kind == "features" and len(set(modalities.values())) > 1:
        raise ValueError(
            f"spaces were interpreted by features of different modalities, {modalities}; compare "
            "those of one, or kind='gene_sets'."
        )
    shares = {}
    for name, found in spaces.items():
        if kind == "features":
            table, column = found.features, "feature"
            least = max(1, found.parameters["min_share"] * found.parameters["n_splits"])
            changes = table["n_significant"] >= least
        elif found.gene_sets is None:
            raise ValueError(
                f"spaces[{name!r}] was interpreted without gene sets; pass gene_sets= to "
                "tl.interpret_latent."
            )
        else:
            table, column = found.gene_sets, "gene_set"
            changes = table["q"] <= MAX_Q
        before = found.components["variance_ratio"].cumsum() - found.components["variance_ratio"]
        first = found.components.loc[before < variance - ROUNDING, "component"]
        changes &= table["component"].isin(first)
        pairs = table.loc[changes, [column, "component"]].drop_duplicates()
        shares[name] = pairs[column].value_counts() / len(first)
    result = pd.DataFrame(shares).fillna(0.0)
    order = result.max(axis=1).sort_values(ascending=False, kind="stable").index
    return result.loc[order].rename_axis("feature" if kind == "features" else "gene_set")


def _is_interpretation(found: Any) -> bool:
    return isinstance(found, LatentInterpretation)
