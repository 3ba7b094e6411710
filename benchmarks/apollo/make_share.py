"""Write sparse counts of the shape of SHARE-seq: ``python make_share.py FILE CELLS``.

28,098 cells in the paper, 9,153 genes and 58,170 peaks; about 10 % and 2.5 % of the values are
not zero. Cells are of a few types. Never more than a block is in memory.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from mudata import MuData
from scipy import sparse

FEATURES = {"rna": 9_153, "atac": 58_170}
DENSITY = {"rna": 0.10, "atac": 0.025}
BLOCK, TYPES = 2_000, 12


def block(cumulated: np.ndarray, n: int, k: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """`n` cells of random types, of `k` draws of features each."""
    types = rng.integers(TYPES, size=n)
    columns = np.empty(n * k, dtype=np.int32)
    for cell in range(n):
        drawn = np.searchsorted(cumulated[types[cell]], rng.random(k))
        columns[cell * k : (cell + 1) * k] = drawn
    starts = np.arange(0, n * k + 1, k)
    x = sparse.csr_matrix(
        (np.ones(n * k, dtype=np.float32), columns, starts), shape=(n, cumulated.shape[1])
    )
    x.sum_duplicates()
    return x


def write(path: Path, n_cells: int, seed: int) -> None:
    """Write the file."""
    names = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    MuData(
        {
            m: AnnData(
                sparse.csr_matrix((n_cells, n), dtype=np.float32),
                obs=names,
                var=pd.DataFrame(index=[f"{m}_{j}" for j in range(n)]),
            )
            for m, n in FEATURES.items()
        }
    ).write_h5mu(path)
    rng = np.random.default_rng(seed)
    with h5py.File(path, "r+") as file:
        for m, n in FEATURES.items():
            share = np.exp(rng.normal(size=n) + rng.normal(scale=0.5, size=(TYPES, n)))
            cumulated = np.cumsum(share, axis=1) / share.sum(axis=1, keepdims=True)
            cumulated[:, -1] = 1
            # some draws fall on the same feature
            k = int(1.15 * DENSITY[m] * n)
            group = file[f"mod/{m}"]
            del group["X"]
            write_elem(group, "X", block(cumulated, min(BLOCK, n_cells), k, rng))
            stored = sparse_dataset(group["X"])
            for start in range(BLOCK, n_cells, BLOCK):
                stored.append(block(cumulated, min(BLOCK, n_cells - start), k, rng))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("cells", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.file.parent.mkdir(parents=True, exist_ok=True)
    write(given.file, given.cells, seed=0)


if __name__ == "__main__":
    main()
