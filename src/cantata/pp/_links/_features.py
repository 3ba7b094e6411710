"""Link the features of two modalities, so that their cells can be compared."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np

from cantata.pp._links._agreement import link_agreement
from cantata.pp._links._chromatin import sum_peaks
from cantata.pp._links._components import joint_basis
from cantata.pp._links._matrices import Linked, Scaled, moments
from cantata.pp._links._options import LinkOptions, Switch, Transform, link_options
from cantata.pp._links._reading import read_linked, set_targets
from cantata.pp._links._report import LinkReport, link_report
from cantata.pp._links._smoothing import fit_smoother
from cantata.pp._links._store import write_links
from cantata.pp._links._tables import links_by_name, links_by_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from mudata import MuData
    from rich.progress import Progress

logger = logging.getLogger(__name__)


SHOWN = 1e8
"""From so many entries (cells x features, of both modalities) on a progress bar is shown."""


FEW = 3
"""With fewer links than this, the angle between two cells says next to nothing."""


def link_features(
    mdata: MuData,
    a: str,
    b: str,
    links: pd.DataFrame | str | None = None,
    *,
    layers: Mapping[str, str | None] | None = None,
    transforms: Mapping[str, Transform] | Transform = "auto",
    n_comps: int | Literal["auto"] | None = "auto",
    smooth: Mapping[str, Switch] | Switch = "auto",
    center: Switch = "auto",
    shared: Switch = "auto",
    max_value: float | None = 10.0,
) -> LinkReport:
    r"""Link features of two modalities, and make matrices in which their cells can be compared.

    A protein is linked with the genes that code for it, a gene with its activity, a marker with
    the same marker of another panel. The values of linked features are normalised apart from all
    others and become z-scores, one column per link, in the same order for both modalities: cells
    of one are compared with cells of the other by the angle between their rows (Wang et al. 2025,
    scMODAL).

    Parameters
    ----------
    mdata
        Any MuData, also backed. No cell needs to have both modalities.
    a, b
        Two modalities.
    links
        Table with the columns ``source`` (features of `a`), ``target`` (features of `b`) and
        optionally ``weight`` (positive). A feature may occur in several links.
        None: by the column ``"gene"`` in the ``.var`` of either modality (empty: no gene), by
        equal names, and by known names of proteins, as CD20 for MS4A1. Names are compared as
        written and then in any case; ``A/B`` stands for a heterodimer and gives one link per
        gene; what panels add to names (``_TotalSeqB``, ``(c-kit)``, ``-1``) is understood.
        Two panels are linked by equal names first, and what is left by gene. Genes with peaks:
        the table of :func:`cantata.pp.peak_gene_links`, or the name of one in ``mdata.uns``; a
        gene is then compared with the weighted sum of its peaks.
    layers
        Layer of a modality. Not named: the counts that :func:`cantata.pp.preprocess` recorded,
        else ``.X``; None: ``.X``.
    transforms
        One for both, or one per modality. ``"log1p"``: linked counts scaled to a common total
        (see Notes), log(1 + x). ``"clr"``: centred log ratio of each feature over the cells.
        ``"arcsinh"``: arcsinh(x / 5), for intensities of CyTOF. None: as they are. ``"auto"``:
        ``"log1p"`` for counts, else None.
    n_comps
        Number of joint principal components that take the place of single links. None: none;
        ``"auto"``: 30 if there are more than 200 links.
    smooth
        Whether the linked features of a modality are replaced by what the 30 leading principal
        components (chromatin: latent semantic components) of all its features predict of them;
        one for both, or one per modality. ``"auto"``: counts of more than 300 features.
    center
        Whether the mean over links is subtracted from each cell, which makes the angle a
        correlation. ``"auto"``: with at least 50 links, where the matrices hold single links.
    shared
        Whether only the leading directions in which both modalities vary are kept, at most 30 or
        `n_comps`. Single links are projected on them and stay single links; joint components are
        these directions. ``"auto"``: with joint components, and where a modality is smoothed.
    max_value
        Z-scores are clipped at this, on both sides; None: they are not.

    Returns
    -------
    A report that prints as a table: which features are linked, which are not, and, where cells
    have both modalities, how well linked features agree there. Written are

    - ``mdata[a].obsm["X_linked_<b>"]`` and ``mdata[b].obsm["X_linked_<a>"]``: float32, cells of
      the modality x links (or components), the same columns in both,
    - ``mdata.varp["links"]``: weights of links, sparse and symmetric; links of other pairs stay,
    - ``mdata.uns["cantata"]["links"]["<a>|<b>"]``: the links and how they were treated.

    Raises
    ------
    TypeError
        If `mdata` is no MuData or `links` no table.
    KeyError
        For unknown modalities or layers.
    ValueError
        If nothing is linked or no linked feature varies; for values that are not finite, negative
        values where logarithms are taken, wrong weights, or arguments out of range.

    Warns
    -----
    UserWarning
        If links are left out, since a feature does not exist or does not vary; if fewer than 3
        are left; if values look like intensities that were not transformed.

    Notes
    -----
    Counts of both modalities are scaled to the same total over the linked features: the median
    of the shallower modality, at least 20. Where the other modality holds logarithms or
    arcsinh values, counts are scaled to the median of its cells' sums of exp(x) - 1. Each feature
    counts once towards a total, also if it has several links. A cell without linked counts keeps
    zeros. Columns are multiplied by the root of the link's weight :math:`w_j`, so that squared
    distances and inner products of rows weigh a link by it; the mean that `center` subtracts is
    :math:`\sum_j w_j x_j / \sum_j w_j`.

    With covariance matrices :math:`A` and :math:`B` of the z-scores, shared directions are
    eigenvectors of :math:`(AB + BA) / 2` with positive eigenvalues. With ``shared=False`` joint
    components are eigenvectors of :math:`(A + B) / 2`, the principal components of the stacked
    cells if both modalities have equally many. They are fitted on at most 20,000 cells of each.

    The published recipe is ``smooth=False, center=False, shared=False``. These three steps are
    ours.

    Examples
    --------
    >>> import cantata, mudata, numpy as np
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(3.0, (50, 6)).astype("float32")
    >>> rna, adt = AnnData(counts[:, :3]), AnnData(counts[:, 3:])
    >>> rna.var_names, adt.var_names = ["CD8A", "MS4A1", "PTPRC"], ["CD8a", "CD20", "CD45RA"]
    >>> mdata = mudata.MuData({"rna": rna, "adt": adt})
    >>> report = cantata.pp.link_features(mdata, "rna", "adt")
    >>> report.n_links
    3
    >>> mdata["rna"].obsm["X_linked_adt"].shape, mdata["adt"].obsm["X_linked_rna"].shape
    ((50, 3), (50, 3))
    """
    options = link_options(
        mdata,
        a,
        b,
        layers=layers,
        transforms=transforms,
        n_comps=n_comps,
        smooth=smooth,
        center=center,
        shared=shared,
        max_value=max_value,
    )
    if isinstance(links, str):
        links = mdata.uns[links] if links in mdata.uns else _unknown_table(mdata, links)
    table = links_by_name(mdata, a, b) if links is None else links_by_table(mdata, a, b, links)
    links_made = table
    with _progress(options) as progress:
        steps = progress.add_task(f"Linking {a} with {b}", total=6)
        table, matrices, gene_end = sum_peaks(mdata, a, b, links_made, options.matrices)
        left, right = set_targets(
            read_linked(a, matrices[a], table["source_index"], options.transforms[a]),
            read_linked(b, matrices[b], table["target_index"], options.transforms[b]),
        )
        table, constant = _split(table, left, right)
        width = options.n_components(len(table))
        progress.advance(steps)
        first = _scale(left, table["source_index"], table["weight"], options, width)
        progress.advance(steps)
        second = _scale(right, table["target_index"], table["weight"], options, width)
        progress.advance(steps)
        shared = options.shares(len(table), smoothed=first.smoothed or second.smoothed)
        basis = joint_basis(first, second, width, shared=shared)
        progress.advance(steps)
        arrays = first.array(basis.matrix), second.array(basis.matrix)
        progress.advance(steps)
        found, n_paired = link_agreement(mdata, table, first, second)
        progress.advance(steps)
    used = table
    if gene_end is not None:
        used = links_made[links_made[gene_end].isin(table[gene_end])].reset_index(drop=True)
    report = link_report(mdata, table, used, constant, found, (first, second), basis, n_paired)
    write_links(mdata, a, b, used, arrays, report.settings(max_value))
    logger.info("%s", report.summary)
    return report


def _progress(options: LinkOptions) -> Progress:
    """A bar that shows where there is much to read."""
    from rich.progress import Progress

    entries = sum(np.prod(matrix.shape, dtype=float) for matrix in options.matrices.values())
    return Progress(transient=True, disable=entries < SHOWN)


def _unknown_table(mdata: MuData, key: str) -> NoReturn:
    raise KeyError(f"links={key!r} is not in mdata.uns, which holds {list(mdata.uns)}.")


def _split(table: pd.DataFrame, left: Linked, right: Linked) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Links whose two ends vary, and the others, after a warning."""
    varies = np.ones(len(table), dtype=bool)
    for side, index in ((left, table["source_index"]), (right, table["target_index"])):
        varies &= (moments(side.measured())[1] > 0)[side.places(index)]
    kept, constant = table[varies].reset_index(drop=True), table[~varies].reset_index(drop=True)
    if len(constant):
        pairs = zip(constant["source"], constant["target"], strict=True)
        names = [f"{source} with {target}" for source, target in pairs][:5]
        text = (
            f"{len(constant)} of {len(table)} links of {left.name!r} and {right.name!r} have an "
            f"end that does not vary, e.g. {', '.join(names)}"
        )
        if kept.empty:
            raise ValueError(
                f"{text}. None is left: give others with links=. (Counts of a single feature do "
                "not vary when they are scaled to a total; see transforms.)"
            )
        warnings.warn(f"{text}; they are left out.", UserWarning, stacklevel=3)
    if len(kept) < FEW:
        warnings.warn(
            f"{left.name!r} and {right.name!r} have only {len(kept)} link(s); cells can hardly be "
            f"compared by fewer than {FEW}. Give more with links=.",
            UserWarning,
            stacklevel=3,
        )
    return kept, constant


def _scale(
    side: Linked, index: pd.Series, weights: pd.Series, options: LinkOptions, width: int
) -> Scaled:
    n_links = len(index)
    if options.smooths(side.name, side.transform):
        chromatin = side.name in options.chromatin
        smoother = fit_smoother(side, options.matrices[side.name], chromatin=chromatin)
        side = replace(side, smoother=smoother)
    # joint components weigh features by how much of them is explained, single links do not
    mean, sd = moments(side.measured() if width else side.blocks())
    return Scaled(
        linked=side,
        mean=mean,
        sd=sd,
        order=side.places(index),
        weights=weights.to_numpy(dtype=np.float64),
        max_value=options.max_value,
        center=options.centers(n_links),
    )
