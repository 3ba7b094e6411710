"""Settings of the runs behind the published scores."""

from __future__ import annotations

from typing import Any


def _preset(
    seed: int, preprocess: dict[str, int], sizes: dict[str, int], weights: dict[str, float]
) -> dict[str, Any]:
    """A preset from what differs between the two data sets of the competition."""
    plan = {
        "optimizer": "rmsprop",
        "lr_schedule": "constant",
        "decoder_epochs": 0.0,
        "decode_once": False,
        **weights,
    }
    return {
        "seed": seed,
        "preprocess": {**preprocess, "n_components": 100},
        "model": {
            "likelihoods": "nb",
            "n_components": 100,
            "n_hidden_encoder": 512,
            "n_layers_encoder": 2,
            "n_layers_decoder": 1,
            "dropout_rate": 0.2,
            "fusion": "mean",
            "alignment": "cosine",
            "normalize_latent": True,
            "library": "learned",
            "discriminator_batch": True,
            "start": "random",
            **sizes,
        },
        "train": {"plan_kwargs": {"lr": 2e-3, "noise_epochs": 12 / 72, **plan}},
        "finetune": {
            "max_epochs": 50,
            "plan_kwargs": {"lr": 1e-3, "noise_epochs": 0.0, **plan},
        },
    }


PRESETS: dict[str, dict[str, Any]] = {
    "cite": _preset(
        seed=5,
        preprocess={"n_top_genes": 5000},
        sizes={
            "n_latent": 20,
            "n_hidden_decoder": 128,
            "n_hidden_discriminator": 128,
            "n_layers_discriminator": 2,
        },
        weights={
            "lambda_self": 1.0,
            "lambda_kl": 1.0,
            "lambda_d": 2.0,
            "lambda_cross": 2.0,
            "lambda_real_cross": 0.0,
            "lambda_mse": 1.0,
            "lambda_contrastive": 0.0,
        },
    ),
    "multiome": _preset(
        seed=2,
        preprocess={"n_top_genes": 10_000},
        sizes={
            "n_latent": 50,
            "n_hidden_decoder": 256,
            "n_hidden_discriminator": 256,
            "n_layers_discriminator": 1,
        },
        weights={
            "lambda_self": 1.0,
            "lambda_kl": 0.3,
            "lambda_d": 0.02,
            "lambda_cross": 1.0,
            "lambda_real_cross": 0.0,
            "lambda_mse": 0.02,
            "lambda_contrastive": 0.0,
        },
    )
    | {"n_top_peaks": 30_000},
}
"""Settings of the competition entry for CITE-seq and multiome data: its seed, arguments of
:func:`cantata.pp.preprocess`, the constructor, :meth:`cantata.CLUE.train` and
:meth:`cantata.CLUE.finetune`, and the peaks with most counts that it kept beside the genes. Its
schedule is counted in steps, at least 36,000 and 72 epochs of which the first sixth has noise, and
so left to the user."""
