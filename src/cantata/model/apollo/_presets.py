"""Published settings."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "model": {
            "n_shared": 50,
            "n_specific": 20,
            "losses": "bce",
            "n_components": None,
            "n_hidden": 1024,
            "n_layers": 3,
            "n_hidden_encoder": 1024,
            "n_layers_encoder": 2,
            "dropout_rate": 0.01,
            "start": "normal",
        },
        "train": {
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
                "lr_schedule": "constant",
                "row_updates": "dense",
                "lambda_shared_latents": 1.0,
                "lambda_independence": 0.0,
                "lambda_mmd": 0.0,
            },
            "encoder_plan_kwargs": {"lr": 1e-4, "lr_schedule": "constant"},
        },
    },
}
"""Zhang et al. 2026 for SHARE-seq: start, rates, widths, epochs and the order of minibatches."""
