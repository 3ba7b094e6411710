"""A mosaic of several modalities with known answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd

from cantata.datasets._assemble import assemble
from cantata.datasets._design import (
    Kind,
    Pairing,
    assign_patterns,
    resolve_features,
    resolve_kinds,
    resolve_pairing,
    stream,
)
from cantata.datasets._latent import draw_cells
from cantata.datasets._modality import (
    SparseFormat,
    draw_linked_features,
    draw_modality,
    feature_names,
    links_table,
    var_table,
)

if TYPE_CHECKING:
    from mudata import MuData


def _check_numbers(batch_effect: float, sparse_format: str, **sizes: int) -> None:
    for name, value in sizes.items():
        least = 0 if name in ("n_private", "seed") else 1
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name}={value!r}: give an integer of at least {least}.")
    if not 0 <= batch_effect < np.inf:
        raise ValueError(f"batch_effect={batch_effect!r}: give a number of at least 0.")
    if sparse_format not in get_args(SparseFormat):
        raise ValueError(
            f"sparse_format={sparse_format!r}: choose one of {list(get_args(SparseFormat))}."
        )


def _depths(depth: float | Mapping[str, float], names: list[str]) -> dict[str, float]:
    """Factor on the library sizes of each modality; 1 where a mapping does not name it."""
    given = dict(depth) if isinstance(depth, Mapping) else dict.fromkeys(names, depth)
    for name, value in given.items():
        if name not in names:
            raise KeyError(f"depth names {name!r}, but the modalities are {names}.")
        if not 0 < value < np.inf:
            raise ValueError(f"depth of modality {name!r} is {value}; it must be positive.")
    return {name: float(given.get(name, 1.0)) for name in names}


def _labels(prefix: str, codes: np.ndarray) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, [f"{prefix} {c + 1}" for c in range(codes.max() + 1)])


def simulate_mosaic(
    n_cells: int = 1600,
    *,
    n_features: Mapping[str, int] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    n_shared: int = 8,
    n_private: int = 4,
    n_cell_types: int = 6,
    n_batches: int = 2,
    pairing: Pairing = "partial",
    batch_effect: float = 0.25,
    depth: float | Mapping[str, float] = 1.0,
    seed: int = 0,
    sparse_format: SparseFormat = "csr",
    shuffle: bool = True,
    keep_expected: bool = False,
) -> MuData:
    r"""Simulate counts of one to five modalities with any pairing, and return the truth with them.

    Parameters
    ----------
    n_cells
        Cells in the whole MuData.
    n_features
        Features of each modality, one to five of them; ``{"rna": 500, "adt": 40}`` by default.
    kinds
        What a modality measures: ``"rna"``, ``"protein"`` or ``"atac"``. Needed only for names
        that do not tell (known: rna, gex, adt, protein, prot, atac, peaks).
    n_shared
        Shared factors, read by every modality.
    n_private
        Factors of each modality's own; 0 is allowed.
    n_cell_types
        Cell types, of unequal frequency (the commonest about three times the rarest). Types come
        in pairs: those of one lineage are harder to tell apart.
    n_batches
        Batches of equal size, independent of type and pairing.
    pairing
        ``"full"``: every cell has every modality. ``"none"``: every cell has one. ``"partial"``:
        half of the cells have every modality, the rest one each. Or the share of each pattern,
        such as ``{("rna",): 0.25, ("adt",): 0.25, ("rna", "adt"): 0.5}``; shares sum to 1 and are
        met exactly up to rounding.
    batch_effect
        Standard deviation of the shift that a batch causes in the log rate of a feature.
    depth
        Factor on the library sizes, for all modalities or by name.
    seed
        The same seed gives the same bits. Cells do not depend on the pairing: with another
        `pairing` and the same seed the same cells are hidden or shown, so that
        ``pairing="full"`` holds the counts that a mosaic hides.
    sparse_format
        ``"csr"``, ``"csc"`` or ``"dense"`` matrices.
    shuffle
        Give the rows of each modality an order of their own.
    keep_expected
        Store the expected counts, dense, in ``layers["truth_expected"]`` of each modality.

    Returns
    -------
    MuData with counts (float32) in ``X`` of each modality and

    - ``obs["cell_type"]``, ``obs["batch"]`` in the MuData and in each modality;
    - ``obsm["truth_shared"]`` (n_obs, n_shared): the factors :math:`z`;
    - ``mdata[m].obsm["truth_private"]`` (cells of m, n_private): the factors :math:`u^m`;
    - ``mdata[m].var["gene"]`` of protein and chromatin modalities, where genes are simulated: the
      linked gene, ``""`` for none;
    - ``uns["truth"]``: the arguments, and ``"links"``, a table with columns source_modality,
      source, target_modality, target.

    Every cell has a count in each of its modalities and every feature has a count: where the draw
    gives none, one count is added.

    Raises
    ------
    ValueError
        If a number, a kind, a pattern or the format is not usable, or there are too few cells for
        the types, the batches or the patterns.
    KeyError
        If `kinds`, `pairing` or `depth` names a modality that is not in `n_features`.

    Notes
    -----
    The cell :math:`i` of type :math:`t` and batch :math:`b` has shared factors
    :math:`z_i = c_t + \varepsilon_i` with :math:`\varepsilon_{ik} \sim N(0, \sigma_k^2)`, where
    the centres :math:`c_t` are the sum of a lineage and a smaller subtype vector and
    :math:`\sigma_k` falls geometrically from 0.7 to 0.15; factors :math:`u_i^m \sim N(0, I)` of
    each modality; and a log-normal library size :math:`l_i^m`. Feature :math:`j` reads them by
    Gaussian loadings of log-normal strength,

    .. math:: h_{ij} = w_j^\top z_i + v_j^\top u_i^m, \qquad
              \eta_{ij} = a_j + h_{ij} + \beta_{bj}, \qquad
              \beta_{bj} \sim N(0, \mathtt{batch\_effect}^2).

    RNA: :math:`x_{ij} \sim NB(l_i\, \mathrm{softmax}(\eta_i)_j, \theta_j)`. Chromatin:
    :math:`x_{ij} \sim Poisson(l_i\, \mathrm{softmax}(\eta_i)_j)`. Protein: background and
    foreground,

    .. math:: x_{ij} \sim NB\bigl(l_i e^{a_j + \beta_{bj}} (4 + 25\, y_{ij} e^{h_{ij}}),
              \theta_j\bigr), \qquad y_{ij} \sim Bernoulli(\mathrm{logit}^{-1}(3 h_{ij})).

    The median library of p features is :math:`9\sqrt p` for RNA and :math:`2.5\sqrt p` for
    chromatin, so more features make an easier task; `depth` makes a harder one. Links: 80 % of
    the proteins and 30 % of the peaks have :math:`w_j` turned to a cosine of about 0.95 with that
    of a well expressed gene of the first RNA modality.

    Examples
    --------
    >>> import cantata
    >>> mdata = cantata.datasets.simulate_mosaic(200, n_features={"rna": 50, "adt": 10}, seed=1)
    >>> mdata.n_obs, mdata["rna"].shape, mdata["adt"].shape
    (200, (150, 50), (150, 10))
    >>> mdata.obsm["truth_shared"].shape
    (200, 8)
    """
    sizes = {"n_shared": n_shared, "n_private": n_private, "n_batches": n_batches}
    _check_numbers(
        batch_effect, sparse_format, n_cells=n_cells, n_cell_types=n_cell_types, seed=seed, **sizes
    )
    widths = resolve_features(n_features)
    names = list(widths)
    measures = resolve_kinds(names, kinds)
    depths = _depths(depth, names)
    shares = resolve_pairing(pairing, names)
    member = assign_patterns(n_cells, shares, names, stream(seed, "pairing"))
    cells = draw_cells(
        n_cells, n_cell_types=n_cell_types, n_batches=n_batches, n_shared=n_shared, seed=seed
    )
    drawn, source = draw_linked_features(
        widths, measures, seed, batch_effect=batch_effect, **sizes
    )
    labels = {name: feature_names(name, widths[name], measures) for name in names}
    modalities = {}
    for column, name in enumerate(names):
        adata = draw_modality(
            name,
            measures[name],
            drawn[name],
            cells,
            measured=member[:, column],
            depth=depths[name],
            seed=seed,
            sparse_format=sparse_format,
            shuffle=shuffle,
            keep_expected=keep_expected,
        )
        genes = labels[source] if source is not None and measures[name] != "rna" else None
        adata.var = var_table(drawn[name], labels[name], genes)
        modalities[name] = adata
    groups = {
        "cell_type": _labels("type", cells.cell_type),
        "batch": _labels("batch", cells.batch),
    }
    mdata = assemble(modalities, pd.DataFrame(groups, index=cells.names))
    shared = pd.DataFrame(cells.shared.astype(np.float32), index=cells.names)
    mdata.obsm["truth_shared"] = shared.loc[mdata.obs_names].to_numpy()
    mdata.uns["truth"] = {
        **sizes,
        "n_cell_types": n_cell_types,
        "seed": seed,
        "batch_effect": batch_effect,
        "depth": depths,
        "kinds": measures,
        "pairing": {" + ".join(pattern): share for pattern, share in shares.items()},
        "links": links_table(drawn, labels, source),
    }
    return mdata
