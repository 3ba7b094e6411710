"""Published settings."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "n_shared": 50,
    "n_specific": 20,
    "losses": "bce",
    "n_components": None,
    "n_hidden": 1024,
    "n_layers": 3,
    "n_hidden_encoder": 1024,
    "n_layers_encoder": 2,
    "hidden_heads": True,
    "dropout_rate": 0.01,
    "start": "normal",
}
TRAIN: dict[str, Any] = {
    "max_epochs": 5000,
    "encoder_epochs": 10_000,
    "batch_size": 512,
    "train_size": 0.85,
    "validation_size": 0.05,
    "early_stopping": False,
    "shuffle": False,
    "linear_encoders": False,
    "plan_kwargs": {
        "lr": 1e-4,
        "lr_latents": 1e-3,
        "lr_covariates": 1e-4,
        "lr_schedule": "constant",
        "row_updates": "dense",
        "lambda_norm": 1e-3,
        "lambda_shared": 1.0,
        "lambda_shared_latents": 1.0,
        "lambda_independence": 0.0,
        "lambda_mmd": 0.0,
    },
    "encoder_plan_kwargs": {"lr": 1e-4, "lr_schedule": "constant"},
}

PRESETS: dict[str, dict[str, Any]] = {
    "published": {"model": MODEL, "train": TRAIN},
    "cite": {"model": MODEL | {"n_specific": 30, "shared_decoders": False}, "train": TRAIN},
    "simulations": {
        "model": MODEL
        | {
            "n_shared": 2,
            "n_specific": 2,
            "losses": "mse",
            "n_hidden": 20,
            "n_hidden_encoder": 20,
            "shared_decoders": False,
        },
        "train": TRAIN | {"max_epochs": 3000, "encoder_epochs": 3000, "batch_size": 256},
    },
    "images": {
        "model": {
            "n_shared": 1024,
            "n_specific": 200,
            "losses": "bce",
            "image_widths": (64, 128, 256, 256, 96),
            "n_common_layers": 5,
            "shared_decoders": False,
            "start": "normal",
        },
        "train": TRAIN
        | {
            "max_epochs": 5001,
            "batch_size": 256,
            "encoder_plan_kwargs": {
                "lr": 1e-3,
                "lr_schedule": "constant",
                "lambda_decoded": 0.0,
                "lambda_independence": 0.0,
                "views": False,
            },
        },
    },
}
"""Zhang et al. 2026: ``"published"`` for SHARE-seq, ``"cite"`` for CITE-seq, ``"simulations"`` for
``datasets.simulate_disentangled``, ``"images"`` for images of 128 pixels. Start, rates, widths,
epochs and the order of minibatches; what the paper does not state (widths of the heads and of
simulations, epochs) is the reference's."""
