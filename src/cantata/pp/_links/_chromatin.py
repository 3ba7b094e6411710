"""Links of genes with peaks: a gene is compared with the sum of its peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cantata._mudata.kinds import guess_kind
from cantata.pp._genomic._gene_activity import sum_linked

if TYPE_CHECKING:
    from mudata import MuData

ENDS = ("source_index", "target_index")


def is_chromatin(mdata: MuData, modality: str) -> bool:
    """Whether a modality holds peaks."""
    try:
        return guess_kind(modality, mdata[modality])[0] == "atac"
    except ValueError:
        return False


def sum_peaks(
    mdata: MuData, a: str, b: str, links: pd.DataFrame, matrices: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any], str | None]:
    """Gene activity in place of peaks, if one of two modalities is chromatin.

    Parameters
    ----------
    mdata
        Any MuData; it is not modified.
    a, b
        The modalities.
    links
        Links with the positions of their ends.
    matrices
        Values of both.

    Returns
    -------
    One link per gene, of weight 1 and of which the end in chromatin is a column of the second
    result: the values of both, those of chromatin summed over the peaks of each gene, weighted by
    the links. At last the column of `links` that holds the genes. All as they were, and None,
    where there is nothing to sum.
    """
    chromatin = [is_chromatin(mdata, name) for name in (a, b)]
    if sum(chromatin) != 1:
        return links, matrices, None
    (gene_end, peak_end), (of_peaks, of_genes) = (ENDS, (b, a))
    if chromatin[0]:
        (gene_end, peak_end), (of_peaks, of_genes) = (ENDS[::-1], (a, b))
    genes, column = np.unique(links[gene_end].to_numpy(), return_inverse=True)
    weights = sparse.csr_matrix(
        (links["weight"].to_numpy(np.float32), (links[peak_end].to_numpy(), column)),
        shape=(mdata[of_peaks].n_vars, genes.size),
    )
    names = mdata[of_genes].var_names.to_numpy()[genes]
    table = pd.DataFrame(
        {"source": names, "target": names, "weight": 1.0, "type": "gene activity"}
    )
    table[gene_end], table[peak_end] = genes, np.arange(genes.size)
    return table, matrices | {of_peaks: sum_linked(matrices[of_peaks], weights)}, gene_end
