"""Link the features of two modalities, so that their cells can be compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.progress import Progress
from scipy import sparse

from cantata import _keys
from cantata._mudata.checks import per_modality, warn_user
from cantata._mudata.kinds import kind_of
from cantata._mudata.pairing import modality_features
from cantata.pp._link_report import (
    LinkReport,
    link_agreement,
    link_consistency,
    link_report,
    warn_of_disagreement,
)
from cantata.pp._links._components import N_COMPONENTS, joint_basis
from cantata.pp._links._tables import links_by_name, links_by_table
from cantata.pp._links._values import (
    LinkedValues,
    Transform,
    ZScores,
    choose_values,
    fit_smoother,
    moments,
    read_linked,
    set_targets,
    sum_peaks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from mudata import MuData

logger = logging.getLogger(__name__)

Switch = bool | Literal["auto"]

MAX_SINGLE_LINKS = 200
"""With more links than this, joint components take the place of single links."""

MAX_UNSMOOTHED_FEATURES = 300
"""Counts of more features than this are smoothed."""

MIN_CENTERED_LINKS = 50
"""From so many links on cells are centred where the matrices hold single links."""

MIN_LINKS = 10
"""With fewer links than this, the angle between two cells says little."""

PROGRESS_ENTRIES = 1e8
"""From so many entries (cells x features, of both modalities) on a progress bar is shown."""


def link_features(
    mdata: MuData,
    a: str,
    b: str,
    links: pd.DataFrame | str | None = None,
    *,
    layers: Mapping[str, str | None] | None = None,
    transforms: Mapping[str, Transform] | Transform = "auto",
    n_components: int | Literal["auto"] | None = "auto",
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
        None: by the column ``"gene"`` in the ``.var`` of either modality, by equal names, and by
        known names of proteins, as CD20 for MS4A1. Names are compared as written and then in any
        case, Ensembl identifiers where both modalities have some. ``A/B``, ``A;B`` and ``A, B``
        give one link per gene. Where an entry of the column is blank the name counts; ``"-"`` is
        no gene. What is put around names (``adt:``, ``145Nd_``, ``_TotalSeqB``, ``(c-kit)``,
        ``-1``, ``CD4:SK3|CD4|AHS0032|pAbO``) is understood.
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
        ``"log1p"`` for counts, also corrected ones that are no integers; ``"clr"`` for those of
        proteins with fewer than 12 links, since the sum of few proteins is no depth; else None.
    n_components
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
        `n_components`. Single links are projected on them and stay single links; joint components
        are these directions. ``"auto"``: with joint components, and where a modality is smoothed.
    max_value
        Z-scores are clipped at this, on both sides; None: they are not.

    Returns
    -------
    A report that prints as a table: which features are linked, which are not, whether links are
    consistent, and, where cells have both modalities, how well linked features agree there.
    Written are

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
        If links are left out, since a feature does not exist or does not vary; if fewer than 10
        are left; if known markers are not linked under the names they have; if values look like
        corrected counts or intensities that were not transformed; if links agree no better than
        shuffled ones, or paired cells no better than shuffled cells.

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

    The published recipe is ``smooth=False, center=False, shared=False``, and
    ``transforms="log1p"`` where links are few. These steps are ours.

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
    matrices, wanted = choose_values(mdata, a, b, layers, transforms)
    smooth = per_modality("smooth", smooth, [a, b], "auto")
    _check_numbers(n_components, max_value)
    _check_switches({f"smooth of {name!r}": switch for name, switch in smooth.items()})
    _check_switches({"center": center, "shared": shared})
    linked = links_by_name(mdata, a, b) if links is None else links_by_table(mdata, a, b, links)
    kinds = {name: kind_of(name, mdata[name]) for name in (a, b)}
    chromatin = {name for name, kind in kinds.items() if kind == "atac"}
    n_entries = sum(np.prod(matrix.shape, dtype=float) for matrix in matrices.values())
    with Progress(transient=True, disable=n_entries < PROGRESS_ENTRIES) as progress:
        steps = progress.add_task(f"Linking {a} with {b}", total=6)
        # 1. genes with peaks: one link per gene, whose peaks are summed
        table, summed, gene_end = linked, matrices, None
        if len(chromatin) == 1:
            peaks = a if a in chromatin else b
            genes, gene_end = (b, "target_index") if peaks == a else (a, "source_index")
            table, activity = sum_peaks(
                mdata, genes, peaks, linked, matrices[peaks], genes_first=genes == a
            )
            summed = matrices | {peaks: activity}
        # 2. read the linked features and normalise them on their own
        left, right = set_targets(
            read_linked(a, summed[a], table["source_index"], wanted[a], kinds[a]),
            read_linked(b, summed[b], table["target_index"], wanted[b], kinds[b]),
        )
        table, constant = _split(table, left, right)
        width = _n_columns(n_components, len(table))
        progress.advance(steps)
        # 3. smooth and standardise
        if center == "auto":
            center = len(table) >= MIN_CENTERED_LINKS and not width
        scores = []
        for values, end in ((left, "source_index"), (right, "target_index")):
            matrix, switch = matrices[values.name], smooth[values.name]
            if switch == "auto":
                switch = matrix.shape[1] > MAX_UNSMOOTHED_FEATURES and values.transform == "log1p"
            if switch:
                smoother = fit_smoother(values, matrix, chromatin=values.name in chromatin)
                values = replace(values, smoother=smoother)
            scores.append(_standardise(values, table, end, width, max_value, center))
            progress.advance(steps)
        first, second = scores
        # 4. keep what both share
        if shared == "auto":
            smoothed = any(x.linked.smoother is not None for x in scores)
            shared = smoothed or width > 0
        basis = joint_basis(first, second, width, shared=shared)
        progress.advance(steps)
        arrays = first.array(basis.matrix), second.array(basis.matrix)
        progress.advance(steps)
        # 5. compare the ends of each link: in cells that have both, and without any
        agreement = link_agreement(mdata, table, first, second)
        consistency = link_consistency(table, first, second)
        progress.advance(steps)
    used = table
    if gene_end is not None:
        used = linked[linked[gene_end].isin(table[gene_end])].reset_index(drop=True)
    report = link_report(
        mdata, table, used, constant, agreement, consistency, (first, second), basis
    )
    warn_of_disagreement(report)
    _write_links(mdata, used, arrays, report, max_value)
    logger.info("%s", report.summary)
    return report


def _check_numbers(n_components: int | Literal["auto"] | None, max_value: float | None) -> None:
    if isinstance(n_components, bool) or not (
        n_components in ("auto", None) or (isinstance(n_components, int) and n_components >= 2)
    ):
        raise ValueError(
            f"n_components={n_components!r}: give a number of at least 2, None or 'auto'."
        )
    if max_value is not None and not max_value > 0:
        raise ValueError(f"max_value={max_value!r}: give a positive number, or None.")


def _check_switches(switches: Mapping[str, Switch]) -> None:
    for argument, switch in switches.items():
        if not (isinstance(switch, bool) or switch == "auto"):
            raise ValueError(f"{argument} is {switch!r}; give True, False or 'auto'.")


def _n_columns(n_components: int | Literal["auto"] | None, n_links: int) -> int:
    """Number of joint components; 0 for one column per link."""
    if n_components == "auto":
        return N_COMPONENTS if n_links > MAX_SINGLE_LINKS else 0
    if n_components is None:
        return 0
    if n_components >= n_links:
        raise ValueError(
            f"n_components={n_components} with {n_links} links; give less, or None for one column "
            "per link."
        )
    return n_components


def _split(
    table: pd.DataFrame, left: LinkedValues, right: LinkedValues
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Links whose two ends vary, and the others, after a warning."""
    varies = np.ones(len(table), dtype=bool)
    for values, index in ((left, table["source_index"]), (right, table["target_index"])):
        varies &= (moments(values.measured())[1] > 0)[values.positions(index)]
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
        warn_user(f"{text}; they are left out.")
    if len(kept) < MIN_LINKS:
        warn_user(
            f"{left.name!r} and {right.name!r} have only {len(kept)} link(s). Cells can hardly be "
            f"compared by fewer than {MIN_LINKS}: with 24, 8 and 3 linked proteins of blood .94, "
            ".75 and .53 of the cell types were carried over right. Give more with links=; keep "
            "the genes of proteins when you choose genes."
        )
    return kept, constant


def _standardise(
    values: LinkedValues,
    table: pd.DataFrame,
    end: str,
    width: int,
    max_value: float | None,
    center: bool,
) -> ZScores:
    # joint components weigh features by how much of them is explained, single links do not
    mean, sd = moments(values.measured() if width else values.blocks())
    return ZScores(
        linked=values,
        mean=mean,
        sd=sd,
        order=values.positions(table[end]),
        weights=table["weight"].to_numpy(dtype=np.float64),
        max_value=max_value,
        center=center,
    )


def _write_links(
    mdata: MuData,
    links: pd.DataFrame,
    arrays: tuple[np.ndarray, np.ndarray],
    report: LinkReport,
    max_value: float | None,
) -> None:
    """Write linked matrices, links and their record; other pairs of modalities are kept."""
    a, b = report.modalities
    joint = _merged_links(mdata, a, b, links)
    records = dict(mdata.uns.get(_keys.UNS, {}))
    pairs = dict(records.get(_keys.LINKS, {}))
    pairs.pop(_keys.link_record(b, a), None)
    pairs[_keys.link_record(a, b)] = {
        "source": links["source"].to_numpy(dtype=object),
        "target": links["target"].to_numpy(dtype=object),
        "type": links["type"].to_numpy(dtype=object),
        "weight": links["weight"].to_numpy(dtype=np.float64),
        "source_index": links["source_index"].to_numpy(dtype=np.int64),
        "target_index": links["target_index"].to_numpy(dtype=np.int64),
        "transforms": dict(report.transforms),
        "targets": dict(report.targets),
        "smoothed": dict(report.smoothed),
        "centered": report.centered,
        "n_components": report.n_components,
        "n_directions": report.n_directions,
        "max_value": np.inf if max_value is None else float(max_value),
        "version": version("cantata"),
    }
    records[_keys.LINKS] = pairs
    mdata[a].obsm[_keys.linked(b)], mdata[b].obsm[_keys.linked(a)] = arrays
    mdata.varp[_keys.LINKS] = joint
    mdata.uns[_keys.UNS] = records


def _merged_links(mdata: MuData, a: str, b: str, links: pd.DataFrame) -> sparse.csr_matrix:
    """``mdata.varp["links"]`` with the links of one pair of modalities put in or replaced.

    Returns
    -------
    Symmetric CSR float32 matrix over the joint axis of features.
    """
    size = mdata.n_vars
    left, right = modality_features(mdata, a), modality_features(mdata, b)
    i = left[links["source_index"].to_numpy()]
    j = right[links["target_index"].to_numpy()]
    weight = links["weight"].to_numpy(dtype=np.float32)
    row, column, data = [i, j], [j, i], [weight, weight]
    if _keys.LINKS in mdata.varp:
        old = sparse.coo_matrix(mdata.varp[_keys.LINKS])
        of_a, of_b = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        of_a[left], of_b[right] = True, True
        replaced = (of_a[old.row] & of_b[old.col]) | (of_b[old.row] & of_a[old.col])
        kept = ~replaced & (np.asarray(old.data) != 0)
        row.append(old.row[kept])
        column.append(old.col[kept])
        data.append(old.data[kept].astype(np.float32))
    entries = np.concatenate(data), (np.concatenate(row), np.concatenate(column))
    return sparse.csr_matrix(entries, shape=(size, size))
