"""Write a large simulated data set in blocks: ``python make_large.py FILE CELLS [options]``.

An h5mu with sparse counts of two modalities of different cells; half of the cells each. Never
more than a block is in memory. Counts are Poisson, of a few cell types that both modalities share.
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

BLOCK = 10_000
TYPES = 8
DEPTH = {"rna": 300.0, "adt": 600.0}
STRENGTH = {"rna": 1.0, "adt": 1.0}


def rates(names: dict[str, int], n_links: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Share of every feature in the counts of every type; linked features rise and fall alike."""
    shared = rng.normal(size=(TYPES, n_links))
    found = {}
    for m, n in names.items():
        effect = np.hstack([shared, rng.normal(size=(TYPES, n - n_links))])
        level = rng.normal(scale=1.0, size=n)
        share = np.exp(level + STRENGTH[m] * effect)
        found[m] = share / share.sum(axis=1, keepdims=True)
    return found


def block(share: np.ndarray, n: int, depth: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of `n` cells of random types."""
    types = rng.integers(TYPES, size=n)
    library = depth * rng.lognormal(sigma=0.3, size=(n, 1))
    counts = rng.poisson(library * share[types]).astype(np.float32)
    counts[:, 0] += counts.sum(axis=1) == 0
    return sparse.csr_matrix(counts)


def write(path: Path, n_cells: int, features: dict[str, int], n_links: int, seed: int) -> None:
    """Write the file, its links as a table in ``uns["links"]``."""
    sizes = {"rna": n_cells // 2, "adt": n_cells - n_cells // 2}
    modalities = {
        m: AnnData(
            sparse.csr_matrix((n, features[m]), dtype=np.float32),
            obs=pd.DataFrame(index=[f"{m}{i}" for i in range(n)]),
            var=pd.DataFrame(index=[f"{m}_{j}" for j in range(features[m])]),
        )
        for m, n in sizes.items()
    }
    mdata = MuData(modalities)
    mdata.uns["links"] = pd.DataFrame(
        {m: [f"{m}_{j}" for j in range(n_links)] for m in sizes}
    ).rename(columns={"rna": "source", "adt": "target"})
    mdata.write_h5mu(path)
    rng = np.random.default_rng(seed)
    share = rates(features, n_links, rng)
    with h5py.File(path, "r+") as file:
        for m, n in sizes.items():
            group = file[f"mod/{m}"]
            del group["X"]
            write_elem(group, "X", block(share[m], min(BLOCK, n), DEPTH[m], rng))
            stored = sparse_dataset(group["X"])
            for start in range(BLOCK, n, BLOCK):
                stored.append(block(share[m], min(BLOCK, n - start), DEPTH[m], rng))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("cells", type=int)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--proteins", type=int, default=228)
    parser.add_argument("--links", type=int, default=100)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.file.parent.mkdir(parents=True, exist_ok=True)
    features = {"rna": given.genes, "adt": given.proteins}
    write(given.file, given.cells, features, given.links, seed=0)


if __name__ == "__main__":
    main()
