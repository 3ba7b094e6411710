"""Settings of the runs behind the published scores."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "cite": {
        "model": {
            "n_latent": 20,
            "n_hidden_encoder": 512,
            "n_layers_encoder": 2,
            "n_hidden_decoder": 128,
            "n_layers_decoder": 1,
            "n_hidden_discriminator": 128,
            "n_layers_discriminator": 2,
            "dropout_rate": 0.2,
            "library": "learned",
            "discriminator_batch": True,
        },
        "train": {
            "plan_kwargs": {
                "lr": 2e-3,
                "lr_schedule": "constant",
                "lambda_kl": 1.0,
                "lambda_d": 2.0,
                "lambda_cross": 2.0,
                "lambda_mse": 1.0,
                "lambda_contrastive": 0.0,
            },
        },
    },
    "multiome": {
        "model": {
            "n_latent": 50,
            "n_hidden_encoder": 512,
            "n_layers_encoder": 2,
            "n_hidden_decoder": 256,
            "n_layers_decoder": 1,
            "n_hidden_discriminator": 256,
            "n_layers_discriminator": 1,
            "dropout_rate": 0.2,
            "library": "learned",
            "discriminator_batch": True,
        },
        "train": {
            "plan_kwargs": {
                "lr": 2e-3,
                "lr_schedule": "constant",
                "lambda_kl": 0.3,
                "lambda_d": 0.02,
                "lambda_cross": 1.0,
                "lambda_mse": 0.02,
                "lambda_contrastive": 0.0,
            },
        },
    },
}
"""Settings of the competition entry for CITE-seq and multiome data: arguments of the constructor
and of :meth:`cantata.CLUE.train`. Its schedule (at least 72 epochs and 36,000 steps) is left to
the user."""
