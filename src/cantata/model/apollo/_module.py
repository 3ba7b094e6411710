"""APOLLO's tables, networks and objectives (Zhang et al. 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn import functional

from cantata._keys import CELL, rows_key
from cantata.losses import (
    SparseValues,
    dependence,
    maximum_mean_discrepancy,
    mean_over_modalities,
    min_max_scaled,
    norm_penalty,
    paired_rows,
)
from cantata.nn import (
    LOSSES,
    MLP,
    ConvDecoder,
    ConvEncoder,
    CovariateEffects,
    Covariates,
    EncoderInput,
    Featurizer,
    ImageComponents,
    LikelihoodHead,
    ScaledHead,
    SplitEncoder,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from cantata.nn import Transform

SHARED = "shared"
"""Name of the table of shared latents, beside those of the modalities."""
ABSENT = -2
"""Table row of a cell in the table of a modality that it lacks; -1: it is not trained on."""
MAX_IMAGE_COMPONENTS = 100
"""Components of images, which are not read as they are."""
MIN_ROWS = 8
"""Rows of a minibatch below which a term that compares distributions is left out."""
OWN_STRIDE = 2
"""Own reconstructions in training are of every second row: they cost as much as predictions do,
and are learned sooner."""
PRIOR_SD = 3.0
"""Spread of latents that noise of size 1 leaves readable, and of the prior of learned noise."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective of the first stage."""

    lambda_norm: float = 1e-3
    """Length of the latents (equation 1)."""
    lambda_shared: float = 1.0
    """Decoding from shared latents alone, where there are shared decoders (equation 1)."""
    lambda_shared_latents: float = 0.0
    """How much decoding from shared latents alone moves these: 0, it only trains its decoders,
    or 1 as in the paper. It rewards shared latents for all that a modality alone knows."""
    lambda_independence: float = 1.0
    """Dependence of specific latents on the shared ones, held fixed; not in the paper."""
    lambda_mmd: float = 1.0
    """Difference of shared latents between cells of one modality each; not in the paper."""
    lambda_noise: float = 1e-3
    """Divergence from the prior where noise is learned; not in the paper."""


class LatentTable(nn.Module):
    """Latents of training cells, without rows until they are set.

    A saved table is loaded with the rows that it has, whatever rows there were before. With
    `learn_noise` there is a standard deviation beside every latent of every cell.

    Examples
    --------
    >>> import numpy as np, torch
    >>> table = LatentTable(2)
    >>> table.set(np.ones((3, 2)))
    >>> table(torch.tensor([2])).shape
    torch.Size([1, 2])
    """

    def __init__(self, width: int, *, learn_noise: bool = False) -> None:
        super().__init__()
        self.width = width
        self.sparse = True
        self.weight = nn.Parameter(torch.zeros(0, width))
        self.log_scale = nn.Parameter(torch.zeros(0, width)) if learn_noise else None

    def set(self, values: np.ndarray) -> None:
        """Set the rows to (n, width) values, and learned noise to its start."""
        like = self.weight
        self.weight = nn.Parameter(torch.as_tensor(values, dtype=like.dtype, device=like.device))
        if self.log_scale is not None:
            self.log_scale = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, width) latents of some rows; only these rows have a gradient."""
        return functional.embedding(rows, self.weight, sparse=self.sparse)

    def scale(self, rows: Tensor) -> Tensor:
        """(n, width) standard deviations of some rows, where noise is learned."""
        assert self.log_scale is not None
        return functional.embedding(rows, self.log_scale, sparse=self.sparse).exp()

    def norm(self) -> Tensor:
        """Mean length of the latents over cells, divided by the root of their number."""
        lengths = self.weight.detach().square().sum(dim=1).sqrt()
        return lengths.mean() / max(self.width, 1) ** 0.5

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored = state_dict.get(f"{prefix}weight")
        if stored is not None and stored.shape != self.weight.shape:
            self.set(torch.zeros(stored.shape).numpy())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


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
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self.has_batches = n_batch > 1
        self.trunk = MLP(
            n_latent,
            n_hidden,
            n_layers,
            n_categories=_told_categories(n_batch, n_categories),
            n_continuous=n_continuous,
            use_batch_norm=True,
            dropout_rate=dropout_rate,
        )
        self.head = LOSSES[loss](n_hidden, n_features, n_batch, n_categories, n_continuous)

    def hidden(self, z: Tensor, covariates: Covariates) -> Tensor:
        """(n, n_hidden) hidden layer, which one batch alone does not enter."""
        return self.trunk(z, covariates if self.has_batches else covariates.without_batch())

    def covariate_parameters(self) -> list[nn.Parameter]:
        """What covariates add to the layers, and how batches scale the output."""
        effects = [m for m in self.modules() if isinstance(m, CovariateEffects)]
        parameters = [p for effect in effects for p in effect.parameters()]
        return [*parameters, *self.head.batch_parameters] if self.has_batches else parameters

    def location(self, z: Tensor, covariates: Covariates) -> Tensor:
        """(n, p) output of the last layer."""
        return self.head.location(self.hidden(z, covariates), covariates)

    def loss(
        self, z: Tensor, covariates: Covariates, library: Tensor | None, target: Any
    ) -> Tensor:
        """Mean loss over cells and features."""
        return self.head.mean_loss(self.hidden(z, covariates), covariates, library, target)

    def expected(self, z: Tensor, covariates: Covariates, library: Tensor | None) -> Tensor:
        """(n, p) expected values."""
        return self.head.expected(self.location(z, covariates), library, covariates)


class ImageDecoder(nn.Module):
    """From latents to the images of a modality, and their loss.

    The loss is ``"bce"``, the cross-entropy of pixels in [0, 1], or ``"mse"``.
    """

    def __init__(self, loss: str, net: ConvDecoder, n_batch: int) -> None:
        super().__init__()
        self.loss_name, self.net, self.has_batches = loss, net, n_batch > 1

    def location(self, z: Tensor, covariates: Covariates) -> Tensor:
        """(n, stains, side, side) output of the last layer."""
        return self.net(z, covariates if self.has_batches else covariates.without_batch())

    def covariate_parameters(self) -> list[nn.Parameter]:
        """What covariates add to the first layer."""
        return list(self.net.covariates.parameters())

    def loss(
        self, z: Tensor, covariates: Covariates, library: Tensor | None, target: Tensor
    ) -> Tensor:
        """Mean loss over cells and pixels."""
        location = self.location(z, covariates).float()
        if self.loss_name == "mse":
            return functional.mse_loss(location, target)
        return functional.binary_cross_entropy_with_logits(location, target)

    def expected(self, z: Tensor, covariates: Covariates, library: Tensor | None) -> Tensor:
        """(n, stains * side * side) expected values, in [0, 1]."""
        location = self.location(z, covariates).float().flatten(1)
        return location.clamp(0, 1) if self.loss_name == "mse" else location.sigmoid()


class APOLLOModule(BaseModuleClass):
    """Latent tables, decoders of shared and of all latents, and encoders of every modality.

    Parameters
    ----------
    n_features, transforms, losses, n_specific
        Features, transform, loss and width of the specific latents of every modality.
    n_batch, n_categories, n_continuous
        Covariates that decoders and encoders are told.
    image_sides
        Side of the images of each modality that has some; its features are stains then.
    hidden_heads
        Give the two heads of each encoder a hidden layer, as in the paper.
    n_common_layers
        Convolutions that the two heads of an encoder of images share; None: half of them.

    Notes
    -----
    All other parameters are those of :class:`cantata.APOLLO`.

    Examples
    --------
    >>> transforms = {"rna": "log1p", "adt": "clr"}
    >>> losses = {"rna": "bce", "adt": "bce"}
    >>> module = APOLLOModule({"rna": 30, "adt": 5}, transforms, losses, 4, {"rna": 2, "adt": 2})
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
        dropout_rate: float = 0.01,
        shared_decoders: bool = True,
        noise: float = 1.0,
        learn_noise: bool = False,
        hidden_heads: bool = False,
        image_widths: Sequence[int] = (16, 32, 64, 96),
        image_sides: Mapping[str, int] | None = None,
        n_common_layers: int | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        n_batch: int = 1,
        n_categories: list[int] | None = None,
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        self.image_sides = dict(image_sides or {})
        self.modalities = list(n_features)
        self.losses = dict(losses)
        self.n_batch, self.noise = n_batch, noise
        self.n_shared, self.n_specific = n_shared, dict(n_specific)
        self.reads_components = n_components is not None
        self.learns_noise = learn_noise
        self.tables = nn.ModuleDict()
        for name, width in {SHARED: n_shared, **n_specific}.items():
            self.tables[name] = LatentTable(width, learn_noise=learn_noise)
        self.inputs, self.encoders = nn.ModuleDict(), nn.ModuleDict()
        self.full, self.shared_only = nn.ModuleDict(), nn.ModuleDict()
        covariates = n_batch, n_categories or [], n_continuous
        told: dict[str, Any] = {
            "n_categories": _told_categories(n_batch, n_categories or []),
            "n_continuous": n_continuous,
        }
        networks = dict(networks or {})
        for name, p in n_features.items():
            loss, n_own = losses[name], n_specific[name]
            trunk: nn.Module
            if name in self.image_sides:
                shape = p, self.image_sides[name]
                # 1. images: components of pixels for the linear map, convolutions for the rest
                layer: Any = ImageComponents(*shape, n_components or MAX_IMAGE_COMPONENTS)
                for decoders, width in (
                    (self.full, n_shared + n_own),
                    (self.shared_only, n_shared),
                ):
                    if decoders is self.full or shared_decoders:
                        net = ConvDecoder(width, *shape, image_widths, **told)
                        decoders[name] = ImageDecoder(loss, net, n_batch)
                input_shape: tuple[int, ...] = (*shape, shape[1])
                if name not in networks:
                    # what a stain has for itself would crowd out what tells of the others
                    trunk = ConvEncoder(
                        p,
                        self.image_sides[name],
                        image_widths,
                        n_branches=2 if n_own else 1,
                        n_common=n_common_layers,
                        **told,
                    )
            else:
                # 2. rows of a matrix: their components, or what is decoded
                rotate = n_components is not None and p > n_components
                layer = EncoderInput(p, transforms[name], n_components if rotate else None)
                sizes = p, *covariates, n_hidden, n_layers, dropout_rate
                self.full[name] = ModalityDecoder(loss, n_shared + n_own, *sizes)
                if shared_decoders:
                    self.shared_only[name] = ModalityDecoder(loss, n_shared, *sizes)
                input_shape = (layer.n_out,)
                if name not in networks:
                    trunk = MLP(
                        layer.n_out,
                        n_hidden_encoder,
                        n_layers_encoder,
                        use_batch_norm=True,
                        dropout_rate=dropout_rate,
                        **told,
                    )
            if name in networks:
                trunk = Featurizer(networks[name], input_shape)
            self.inputs[name] = layer
            self.register_buffer(f"takes_log_{name}", torch.tensor(True))
            self.encoders[name] = SplitEncoder(
                trunk, layer.n_out, n_shared, n_own, hidden_heads=hidden_heads
            )

    # Parts --------------------------------------------------------------------------------------

    def input(self, modality: str) -> EncoderInput:
        """What the encoder of a modality reads."""
        return cast("EncoderInput", self.inputs[modality])

    def components(self, modality: str) -> ImageComponents:
        """Components of a modality's images."""
        return cast("ImageComponents", self.inputs[modality])

    def table(self, name: str) -> LatentTable:
        """Table of a modality's specific latents, or of the shared ones."""
        return cast("LatentTable", self.tables[name])

    def decoder(
        self, modality: str, *, shared_only: bool = False
    ) -> ModalityDecoder | ImageDecoder:
        """Decoder of a modality."""
        decoders = self.shared_only if shared_only else self.full
        return cast("ModalityDecoder | ImageDecoder", decoders[modality])

    def head(self, modality: str) -> LikelihoodHead:
        """Output layer of a modality that is no image."""
        return cast("ModalityDecoder", self.decoder(modality)).head

    def has_library(self, modality: str) -> bool:
        """Whether expected values are a library size times proportions."""
        return modality not in self.image_sides and self.head(modality).has_library

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

    # Values -------------------------------------------------------------------------------------

    def data(self, modality: str, values: Tensor) -> tuple[Tensor | None, Any]:
        """What the loss of a modality needs of (n, p) registered values, dense or CSR.

        (n,) totals of counts, where the likelihood has a use for them, and what the output of
        decoders is compared with.
        """
        if modality in self.image_sides:
            return None, values
        if self.losses[modality] == "bce":
            return None, self._scaled(modality, values)
        if self.losses[modality] == "mse":
            return None, self.input(modality).standardized(values.to_dense())
        head = self.head(modality)
        library = head.observed_library(values) if head.has_library else None
        return library, SparseValues.of(values)

    def takes_log(self, modality: str) -> bool:
        """Whether values are counts, whose logarithm is scaled to [0, 1]."""
        return bool(getattr(self, f"takes_log_{modality}"))

    def set_takes_log(self, modality: str, takes_log: bool) -> None:
        """Set whether values are counts."""
        getattr(self, f"takes_log_{modality}").fill_(takes_log)

    def _scaled(self, modality: str, values: Tensor) -> SparseValues:
        return min_max_scaled(values, log=self.takes_log(modality))

    def read(self, modality: str, values: Tensor) -> Tensor:
        """Input of the encoder from (n, p) registered values: (n, n_out), or images themselves."""
        if modality in self.image_sides:
            return values
        if self.losses[modality] == "bce" and not self.reads_components:
            return self._scaled(modality, values).dense()
        return self.input(modality)(values)

    # Running ------------------------------------------------------------------------------------

    def encode(self, modality: str, x: Tensor, covariates: Covariates) -> tuple[Tensor, Tensor]:
        """Shared and specific latents that a modality's encoder infers from its input.

        `covariates` are those of the cells of `x`; one batch alone does not enter.
        """
        told = covariates if self.n_batch > 1 else covariates.without_batch()
        linear = self.inputs[modality](x) if modality in self.image_sides else None
        return self.encoder(modality)(x, told, linear)

    def turned(self, tensors: Mapping[str, Tensor], view: Tensor) -> dict[str, Tensor]:
        """Minibatch of n cells whose images are flipped and turned, each by one of (n,) views."""
        images = {
            name: turned(tensors[name], view[tensors[rows_key(name)]]) for name in self.image_sides
        }
        return {**tensors, **images}

    def encode_values(
        self, tensors: Mapping[str, Tensor], modality: str | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Shared and specific latents of a minibatch of values, and their positions.

        With a `modality` only its own.
        """
        names = self.modalities if modality is None else [modality]
        rows = {name: tensors[rows_key(name)] for name in names}
        covariates = Covariates.of(tensors)
        both = {
            name: self.encode(name, self.read(name, tensors[name]), covariates.rows(rows[name]))
            for name in names
        }
        shared, specific = ({name: z[k] for name, z in both.items()} for k in (0, 1))
        return shared, specific, rows

    def joint(self, shared: Mapping[str, Tensor], rows: Mapping[str, Tensor], n: int) -> Tensor:
        """(n, n_shared) mean of the shared latents over the modalities that a cell has."""
        return mean_over_modalities(dict(shared), dict(rows), n)

    def decode(
        self,
        modality: str,
        z: Tensor,
        covariates: Covariates,
        library: Tensor | None,
        *,
        shared_only: bool,
    ) -> Tensor:
        """(n, p) expected values from shared latents alone, or from these and specific ones."""
        if shared_only and self.has_shared_decoders:
            return self.decoder(modality, shared_only=True).expected(z, covariates, library)
        if shared_only:
            mean = self.table(modality).weight.detach().mean(dim=0)
            z = torch.cat([z, mean.expand(len(z), self.n_specific[modality])], dim=1)
        return self.decoder(modality).expected(z, covariates, library)

    # First stage --------------------------------------------------------------------------------

    def inference(
        self, tensors: Mapping[str, Tensor], table_rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Latents of a minibatch of training cells, and what noise is learned of them.

        `table_rows` are, for each table, the (n_cells,) rows of all cells of the data. Latents are
        (n, n_shared) for ``"shared"`` and (n_m, n_specific) for each modality with rows; learned
        standard deviations are shaped alike.
        """
        cell = tensors[CELL]
        rows = {SHARED: table_rows[SHARED][cell]}
        for name in self.modalities:
            if len(tensors[rows_key(name)]):
                rows[name] = table_rows[name][cell[tensors[rows_key(name)]]]
        latents = {name: self.table(name)(of_table) for name, of_table in rows.items()}
        if not self.learns_noise:
            return latents, {}
        return latents, {name: self.table(name).scale(of_table) for name, of_table in rows.items()}

    def generative(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        noise_sd: Mapping[str, Tensor],
        weights: LossWeights,
    ) -> dict[str, Tensor]:
        """Losses of decoding noisy latents: ``full_<modality>`` and ``shared_<modality>``.

        ``shared`` ones are decoded from the shared latents alone; these move by it as much as
        ``lambda_shared_latents`` says.
        """

        def noisy(name: str) -> Tensor:
            z = latents[name]
            return z + noise_sd.get(name, self.noise) * torch.randn_like(z)

        covariates = Covariates.of(tensors)
        shared = noisy(SHARED)
        decoded: dict[str, Tensor] = {}
        for name in self.modalities:
            if name not in latents:
                continue
            rows = tensors[rows_key(name)]
            data, of_rows = self.data(name, tensors[name]), covariates.rows(rows)
            z = shared[rows]
            both = torch.cat([z, noisy(name)], dim=1)
            decoded[f"full_{name}"] = self.decoder(name).loss(both, of_rows, *data)
            if self.has_shared_decoders and weights.lambda_shared:
                moves = weights.lambda_shared_latents
                z = moves * z + (1 - moves) * z.detach() if moves else z.detach()
                decoder = self.decoder(name, shared_only=True)
                decoded[f"shared_{name}"] = decoder.loss(z, of_rows, *data)
        return decoded

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        noise_sd: Mapping[str, Tensor],
        decoded: Mapping[str, Tensor],
        weights: LossWeights,
    ) -> LossOutput:
        """Objective of latents and decoders, Zhang et al. 2026, eq. 1.

        `latents`, `noise_sd` and `decoded` are from :meth:`inference` and :meth:`generative`.
        """
        # 1. terms by kind and by table, modality or pair; the order of computation fixes rounding
        shared = latents[SHARED]
        terms: dict[tuple[str, str], Tensor] = {}
        for name, z in latents.items():
            if z.shape[1]:
                terms["norm", name] = norm_penalty(z)
            if name in noise_sd and z.shape[1]:
                terms["divergence", name] = _divergence(z, noise_sd[name])
            if name == SHARED:
                continue
            for kind in ("full", "shared"):
                if f"{kind}_{name}" in decoded:
                    terms[kind, name] = decoded[f"{kind}_{name}"]
            rows = tensors[rows_key(name)]
            if weights.lambda_independence and z.shape[1] and len(rows) >= MIN_ROWS:
                terms["dependence", name] = dependence(z, shared[rows].detach())
        if weights.lambda_mmd:
            terms |= self._mmd_terms(tensors, shared)
        # 2. their weights
        of_kind = {
            "norm": weights.lambda_norm,
            "divergence": weights.lambda_noise,
            "full": 1.0,
            "shared": weights.lambda_shared,
            "dependence": weights.lambda_independence,
            "mmd": weights.lambda_mmd,
        }
        total = shared.new_zeros(())
        for (kind, _), value in terms.items():
            total = total + of_kind[kind] * value
        # the history has the norms of whole tables
        named = {f"{kind}_{key}": v for (kind, key), v in terms.items() if kind != "norm"}
        metrics = named | {"objective": total}
        return LossOutput(loss=total, n_obs_minibatch=len(shared), extra_metrics=metrics)

    def _mmd_terms(
        self, tensors: Mapping[str, Tensor], shared: Tensor
    ) -> dict[tuple[str, str], Tensor]:
        """Differences between the shared latents of cells that have one modality each."""
        present = torch.zeros(len(shared), len(self.modalities), device=shared.device)
        for k, name in enumerate(self.modalities):
            present[tensors[rows_key(name)], k] = 1
        alone = present.sum(dim=1) == 1
        terms = {}
        for (j, first), (k, second) in combinations(enumerate(self.modalities), 2):
            a, b = (alone & (present[:, i] == 1) for i in (j, k))
            if min(int(a.sum()), int(b.sum())) >= MIN_ROWS:
                terms["mmd", f"{first}_{second}"] = maximum_mean_discrepancy(shared[a], shared[b])
        return terms

    # Second stage -------------------------------------------------------------------------------

    def encoder_loss(
        self,
        inputs: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        table_rows: Mapping[str, Tensor],
        *,
        lambda_decoded: float = 0.0,
        lambda_independence: float = 0.0,
        view: Tensor | None = None,
    ) -> LossOutput:
        """Squared distance of encoded to optimised latents (Zhang et al. 2026, second step).

        `lambda_decoded` weighs what decoders make of encodings beside it, `lambda_independence`
        the dependence of specific encodings on shared ones; neither is in the paper. Of cells
        whose images were turned by a `view` other than 0 there are no optimised latents; decoded
        images are turned with them.
        """
        cell, covariates = tensors[CELL], Covariates.of(tensors)
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            shared = self.table(SHARED)(table_rows[SHARED][cell])
        is_plain = torch.ones_like(cell, dtype=torch.bool) if view is None else view == 0
        encoded: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        for name, x in inputs.items():
            rows = tensors[rows_key(name)]
            if not len(rows):
                continue
            with torch.no_grad():
                specific = self.table(name)(table_rows[name][cell[rows]])
            both = self.encode(name, x, covariates.rows(rows))
            encoded[0][name], encoded[1][name] = both
            z_shared, z_specific = (z.float() for z in both)
            if name in self.image_sides:
                plain = is_plain[rows]
                if not plain.any():
                    continue
                z_shared, z_specific, specific = (
                    z_shared[plain],
                    z_specific[plain],
                    specific[plain],
                )
                rows = rows[plain]
            terms[f"encoded_shared_{name}"] = (z_shared - shared[rows]).square().mean()
            if specific.shape[1]:
                error = (z_specific - specific).square().mean()
                terms[f"encoded_specific_{name}"] = error
        total = sum(terms.values(), next(iter(inputs.values())).new_zeros((), dtype=torch.float32))
        if lambda_decoded:
            decoded = self._decoded_terms(tensors, *encoded, is_plain, OWN_STRIDE)
            total = total + lambda_decoded * sum(decoded.values())
            terms |= decoded
        if lambda_independence:
            dependent = self._dependence_terms(tensors, *encoded)
            total = total + lambda_independence * sum(dependent.values())
            terms |= dependent
        metrics = terms | {"encoder_objective": total}
        return LossOutput(loss=total, n_obs_minibatch=len(cell), extra_metrics=metrics)

    def _dependence_terms(
        self,
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        specific: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Dependence of specific encodings on what each modality of the same cells says is shared.

        What others say is held fixed: where a modality tells it badly, decoding would bring the
        rest into its specific encodings, which its own shared ones do not show.
        """
        terms: dict[str, Tensor] = {}
        for name, z in specific.items():
            for source in shared if z.shape[1] else ():
                here, there = paired_rows(tensors[rows_key(name)], tensors[rows_key(source)])
                if len(here) < MIN_ROWS:
                    continue
                told = shared[source][there].float()
                value = dependence(z[here].float(), told if source == name else told.detach())
                terms[f"encoded_dependence_{name}_on_{source}"] = value
        return terms

    def _decoded_terms(
        self,
        tensors: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        specific: Mapping[str, Tensor],
        is_plain: Tensor,
        stride: int = 1,
    ) -> dict[str, Tensor]:
        """Losses of decoding encodings: of a modality from its own, and from each other's shared.

        The former are of every `stride`-th row, and only specific encodings move by them.

        Only cells of which `is_plain` says that their images are not turned tell images from a
        modality that is none, and the reverse.
        """
        covariates = Covariates.of(tensors)
        terms: dict[str, Tensor] = {}
        for target in shared:
            rows = tensors[rows_key(target)]
            of_rows, data = covariates.rows(rows), self.data(target, tensors[target])
            # shared latents are given: else they would take on what is specific
            z = torch.cat([shared[target].detach(), specific[target]], dim=1)
            own = torch.arange(0, len(rows), stride, device=rows.device)
            loss = self.decoder(target).loss(z[own], of_rows.rows(own), *_taken(data, own))
            terms[f"decoded_full_{target}"] = loss
            for source in shared if self.has_shared_decoders else ():
                if source == target:
                    continue
                here, there = paired_rows(rows, tensors[rows_key(source)])
                if (source in self.image_sides) != (target in self.image_sides):
                    plain = is_plain[rows[here]]
                    here, there = here[plain], there[plain]
                if not len(here):
                    continue
                decoder, z = self.decoder(target, shared_only=True), shared[source][there]
                loss = decoder.loss(z, of_rows.rows(here), *_taken(data, here))
                terms[f"predicted_{target}_from_{source}"] = loss
        return terms

    def decoded_loss(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of decoding what the encoders infer, which held-out cells are judged by.

        Where there are images, a modality is judged by what others predict of it, in place of
        what its own shared latents do.
        """
        covariates = Covariates.of(tensors)
        shared, specific, rows = self.encode_values(tensors)
        present = [name for name in rows if len(rows[name])]
        if self.image_sides:
            is_plain = torch.ones_like(tensors[CELL], dtype=torch.bool)
            own, further = ({name: z[name] for name in present} for z in (shared, specific))
            terms = self._decoded_terms(tensors, own, further, is_plain)
        else:
            terms = {}
            for name in present:
                data, of_rows = self.data(name, tensors[name]), covariates.rows(rows[name])
                z = torch.cat([shared[name], specific[name]], dim=1)
                terms[f"decoded_full_{name}"] = self.decoder(name).loss(z, of_rows, *data)
                if self.has_shared_decoders:
                    decoder = self.decoder(name, shared_only=True)
                    terms[f"decoded_shared_{name}"] = decoder.loss(shared[name], of_rows, *data)
        total = sum(terms.values(), tensors[CELL].new_zeros((), dtype=torch.float32))
        return terms | {"decoded": total}


def _told_categories(n_batch: int, n_categories: list[int]) -> list[int]:
    """Numbers of the categories that networks are told; one batch alone is not told."""
    return [n_batch, *n_categories] if n_batch > 1 else n_categories


def _divergence(z: Tensor, sd: Tensor) -> Tensor:
    """Divergence of latents with learned noise from a wide normal distribution, per cell."""
    variance = sd.square() / PRIOR_SD**2
    divergence = 0.5 * (variance + (z / PRIOR_SD).square() - 1 - variance.log())
    return divergence.sum(dim=1).mean()


def _taken(data: tuple[Tensor | None, Any], rows: Tensor) -> tuple[Tensor | None, Any]:
    """Some rows of what :meth:`APOLLOModule.data` returns."""
    library, target = data
    target = target.taken(rows) if isinstance(target, SparseValues) else target[rows]
    return None if library is None else library[rows], target
