"""Preprocessing: pairing of cells, representations, feature links, empty cells, images."""

from cantata._mudata.annotation import read_annotation
from cantata.pp._crop_cells import crop_cells
from cantata.pp._drop_empty import drop_empty
from cantata.pp._gene_activity import gene_activity
from cantata.pp._image_features import image_features
from cantata.pp._images import pad_images, read_h5sc, split_stains
from cantata.pp._link_features import link_features
from cantata.pp._link_report import LinkReport
from cantata.pp._link_table import link_table
from cantata.pp._pairing_report import PairingReport, pairing_report
from cantata.pp._peak_gene_links import peak_gene_links
from cantata.pp._preprocess import preprocess
from cantata.pp._suggest_links import suggest_links

__all__ = [
    "LinkReport",
    "PairingReport",
    "crop_cells",
    "drop_empty",
    "gene_activity",
    "image_features",
    "link_features",
    "link_table",
    "pad_images",
    "pairing_report",
    "peak_gene_links",
    "preprocess",
    "read_annotation",
    "read_h5sc",
    "split_stains",
    "suggest_links",
]
