"""Published settings of scMODAL."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "links": {"transforms": "log1p", "smooth": False, "center": False, "shared": False},
        "model": {
            "n_latent": 20,
            "transforms": "log1p",
            "n_components": None,
            "n_hidden": 512,
            "n_hidden_discriminator": 512,
            "n_layers_discriminator": 2,
            "weight_init": "normal",
        },
        "train": {
            "max_steps": 10_000,
            "batch_size": 500,
            "n_refinements": 0,
            "balance": False,
            "plan_kwargs": {
                "lr": 1e-3,
                "lr_schedule": "constant",
                "weight_decay": 1e-3,
                "n_discriminator_steps": 5,
                "n_neighbors": 30,
                "gradient_clip": 5.0,
                "lambda_gan": 1.0,
                "lambda_ae": 10.0,
                "lambda_cycle": 10.0,
                "lambda_anchor": 1.0,
                "lambda_linked": 0.0,
                "lambda_geo": 10.0,
            },
        },
    }
}
"""``"published"``: the settings of the reference implementation, which made the published scores
(the paper prints a geometry weight of 1, the reference has always used 10). ``"links"`` are those
of :func:`cantata.pp.link_features`. All modalities are log-normalised; chromatin is read as gene
activity (:func:`cantata.pp.gene_activity`)."""
