"""APOLLO's tables, decoders and encoders, and how they are run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import torch
from scvi.module.base import BaseModuleClass
from torch import Tensor, nn

from cantata._keys import rows_key
from cantata.losses import SparseCounts, mean_over_modalities, min_max_scaled
from cantata.model._covariates import batch_first
from cantata.model.apollo._tables import LatentTable
from cantata.nn import LOSSES, Decoder, FeatureInput, LikelihoodHead, ScaledHead, SplitEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cantata.losses import ScaledValues
    from cantata.nn import Transform

SHARED = "shared"


class ModalityDecoder(nn.Module):
    """From latents to the values of a modality, and their loss."""

    def __init__(
        self,
        loss: str,
        n_latent: int,
        n_features: int,
        n_batch: int,
        n_categories: list[int],
        n_continuous: int,
        n_hidden: int,
        n_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        batches = [n_batch] if n_batch > 1 else []
        self.first_code = 0 if batches else 1
        self.trunk = Decoder(
            n_latent, batches + n_categories, n_continuous, n_hidden, n_layers, dropout
        )
        self.head = LOSSES[loss](n_hidden, n_features, n_batch, n_categories, n_continuous)

    def location(self, z: Tensor, codes: Tensor, values: Tensor | None) -> Tensor:
        """(n, p) output of the last layer."""
        hidden = self.trunk(z, codes[:, self.first_code :], values)
        return self.head.location(hidden, codes, values)

    def loss(
        self, z: Tensor, codes: Tensor, values: Tensor | None, library: Tensor | None, target: Any
    ) -> Tensor:
        """Mean loss over cells and features."""
        hidden = self.trunk(z, codes[:, self.first_code :], values)
        return self.head.mean_loss(hidden, codes, values, library, target)

    def expected(
        self, z: Tensor, codes: Tensor, values: Tensor | None, library: Tensor | None
    ) -> Tensor:
        """(n, p) expected values."""
        return self.head.expected(self.location(z, codes, values), library, codes)


class APOLLONetwork(BaseModuleClass):
    """Latent tables, decoders of shared and of all latents, and encoders of every modality.

    Parameters
    ----------
    n_features
        Features of every modality.
    transforms
        Transform of every modality, for what its encoder reads.
    losses
        ``"bce"``, ``"mse"`` or a likelihood, for every modality.
    n_shared
        Width of the shared latents.
    n_specific
        Width of the specific latents of every modality.
    n_components
        Encoders of wider modalities read so many components; None: what is decoded.
    n_hidden, n_layers
        Of the decoders.
    n_hidden_encoder, n_layers_encoder
        Of the encoders.
    dropout
        Rate of all hidden layers.
    shared_decoders
        Decode from shared latents alone as well.
    noise
        Standard deviation of the noise on latents while decoders are trained.
    learn_noise
        Learn it for every latent of every cell.
    n_batch, n_categories, n_continuous
        Covariates that decoders are told.

    Examples
    --------
    >>> transforms = {"rna": "log1p", "adt": "clr"}
    >>> losses = {"rna": "bce", "adt": "bce"}
    >>> module = APOLLONetwork({"rna": 30, "adt": 5}, transforms, losses, 4, {"rna": 2, "adt": 2})
    >>> sorted(module.tables)
    ['adt', 'rna', 'shared']
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        transforms: Mapping[str, Transform],
        losses: Mapping[str, str],
        n_shared: int,
        n_specific: Mapping[str, int],
        *,
        n_components: int | None = 100,
        n_hidden: int = 128,
        n_layers: int = 1,
        n_hidden_encoder: int = 128,
        n_layers_encoder: int = 2,
        dropout: float = 0.01,
        shared_decoders: bool = True,
        noise: float = 1.0,
        learn_noise: bool = False,
        n_batch: int = 1,
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        self.modalities = list(n_features)
        self.losses = dict(losses)
        self.n_batch, self.noise = n_batch, noise
        self.n_shared, self.n_specific = n_shared, dict(n_specific)
        self.reads_components = n_components is not None
        self.frozen = False
        widths = {SHARED: n_shared, **n_specific}
        self.tables = nn.ModuleDict(
            {name: LatentTable(width, learn_noise=learn_noise) for name, width in widths.items()}
        )
        self.inputs, self.encoders = nn.ModuleDict(), nn.ModuleDict()
        self.full, self.shared_only = nn.ModuleDict(), nn.ModuleDict()
        for name, p in n_features.items():
            rotate = n_components is not None and p > n_components
            self.inputs[name] = FeatureInput(p, transforms[name], n_components if rotate else None)
            settings = (p, n_batch, n_categories or [], n_continuous, n_hidden, n_layers, dropout)
            loss, width = losses[name], n_shared + n_specific[name]
            self.full[name] = ModalityDecoder(loss, width, *settings)
            if shared_decoders:
                self.shared_only[name] = ModalityDecoder(loss, n_shared, *settings)
            self.register_buffer(f"takes_log_{name}", torch.tensor(True))
            self.encoders[name] = SplitEncoder(
                self.input(name).n_out,
                n_shared,
                n_specific[name],
                n_hidden_encoder,
                n_layers_encoder,
                dropout,
            )

    # Parts --------------------------------------------------------------------------------------

    def input(self, modality: str) -> FeatureInput:
        """What the encoder of a modality reads."""
        return cast("FeatureInput", self.inputs[modality])

    def table(self, name: str) -> LatentTable:
        """Table of a modality's specific latents, or of the shared ones."""
        return cast("LatentTable", self.tables[name])

    def decoder(self, modality: str, *, shared_only: bool = False) -> ModalityDecoder:
        """Decoder of a modality."""
        decoders = self.shared_only if shared_only else self.full
        return cast("ModalityDecoder", decoders[modality])

    def head(self, modality: str) -> LikelihoodHead:
        """Output layer of a modality."""
        return self.decoder(modality).head

    def encoder(self, modality: str) -> SplitEncoder:
        """Encoder of a modality."""
        return cast("SplitEncoder", self.encoders[modality])

    @property
    def has_shared_decoders(self) -> bool:
        """Whether modalities are decoded from shared latents alone as well."""
        return len(self.shared_only) > 0

    def set_pos_weight(self, modality: str, weight: float) -> None:
        """Set the weight of the positive part of the cross-entropy, where that is the loss."""
        for decoders in (self.full, self.shared_only):
            if modality in decoders:
                head = cast("ModalityDecoder", decoders[modality]).head
                if isinstance(head, ScaledHead):
                    head.pos_weight.fill_(weight)

    def freeze_all_but_covariates(self) -> None:
        """Let training change the parameters of batches and covariates, and latents, alone."""
        self.frozen = True
        for name, parameter in self.named_parameters():
            in_head = ".head." in name and ".output." not in name
            open_ = ".covariates" in name or in_head or name.startswith("tables.")
            parameter.requires_grad_(open_)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; frozen networks keep their statistics and use no dropout."""
        super().train(mode and not self.frozen)
        return self

    def covariates(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """(n, 1 + c) codes with the batch first, and (n, d) continuous covariates."""
        return batch_first(tensors)

    # Values -------------------------------------------------------------------------------------

    def data(self, modality: str, values: Tensor) -> tuple[Tensor | None, Any]:
        """Totals of cells, where the loss of a modality needs them, and its target.

        Parameters
        ----------
        modality
            Name.
        values
            (n, p) registered values, dense or CSR.
        """
        if self.losses[modality] != "bce":
            values = values.to_dense()
        return self.library(modality, values), self.target(modality, values)

    def target(self, modality: str, values: Tensor) -> Any:
        """What the loss of a modality compares its decoders' output with."""
        loss = self.losses[modality]
        if loss == "bce":
            return self._scaled(modality, values)
        if loss == "mse":
            return self.input(modality).standardised(values)
        return SparseCounts.from_dense(values)

    def set_takes_log(self, modality: str, takes_log: bool) -> None:
        """Set whether values are counts, whose logarithm is scaled to [0, 1]."""
        getattr(self, f"takes_log_{modality}").fill_(takes_log)

    def _scaled(self, modality: str, values: Tensor) -> ScaledValues:
        return min_max_scaled(values, log=bool(getattr(self, f"takes_log_{modality}")))

    def library(self, modality: str, values: Tensor) -> Tensor | None:
        """(n,) totals of counts, where the likelihood has a use for them."""
        return values.sum(dim=1).clamp(min=1e-4) if self.head(modality).has_library else None

    def read(self, modality: str, values: Tensor) -> Tensor:
        """(n, n_out) input of the encoder from (n, p) registered values."""
        if self.losses[modality] == "bce" and not self.reads_components:
            return self._scaled(modality, values).dense()
        return self.input(modality)(values)

    # Running ------------------------------------------------------------------------------------

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Shared and specific latents that each modality's encoder infers from its input."""
        return {name: self.encoders[name](x) for name, x in inputs.items()}

    def encode_values(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Shared and specific latents of a minibatch of values, and the places of their rows."""
        rows = {name: tensors[rows_key(name)] for name in self.modalities}
        both = self.encode({name: self.read(name, tensors[name]) for name in self.modalities})
        shared, specific = ({name: z[k] for name, z in both.items()} for k in (0, 1))
        return shared, specific, rows

    def joint(self, shared: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int) -> Tensor:
        """(n, n_shared) mean of the shared latents over the modalities that a cell has."""
        return mean_over_modalities(dict(shared), dict(rows), n)

    def decode(
        self,
        modality: str,
        shared: Tensor,
        specific: Tensor | None,
        covariates: tuple[Tensor, Tensor | None],
        library: Tensor | None,
    ) -> Tensor:
        """(n, p) expected values, from shared latents alone where `specific` is None."""
        codes, values = covariates
        if specific is None and self.has_shared_decoders:
            return self.decoder(modality, shared_only=True).expected(
                shared, codes, values, library
            )
        if specific is None:
            width = self.n_specific[modality]
            specific = self.table(modality).weight.detach().mean(dim=0).expand(len(shared), width)
        z = torch.cat([shared, specific], dim=1)
        return self.decoder(modality).expected(z, codes, values, library)
