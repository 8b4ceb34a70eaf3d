"""Spectral normalization of whole networks (Miyato et al. 2018): every layer's weight over its largest singular value.

torch's parametrization, one step of power iteration for every pass in training mode. Like batch statistics, its
estimates know how often a network ran: micro-batches of one rank add passes, ranks do not.
"""

import copy

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from components.networks.encoder import Encoder, build_encoder

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def normalize_spectrally(module: nn.Module) -> None:
    """Bound the slope of every layer below ``module`` by one, in place; its weights become functions of parameters."""
    for part in [part for part in module.modules() if isinstance(part, _LAYERS)]:
        spectral_norm(part)


def with_plain_weights(encoder: Encoder) -> Encoder:
    """``encoder`` itself, or where its weights are normalized one that has the results for weights, apart from it."""
    if not any(parametrize.is_parametrized(part) for part in encoder.modules()):
        return encoder
    frozen = copy.deepcopy(encoder).eval()  # reading a weight in training mode would take a step of power iteration
    state = {key: value for key, value in frozen.state_dict().items() if ".parametrizations." not in key}
    for name, part in frozen.named_modules():
        if parametrize.is_parametrized(part):
            state[f"{name}.weight"] = part.weight
    plain = build_encoder(encoder.config).to(next(encoder.parameters()).device)
    plain.load_state_dict(state)
    return plain.train(encoder.training)
