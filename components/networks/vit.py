"""Vision transformer (Dosovitskiy et al. 2021) under timm's key names, and the blocks that it is made of.

Legend of shape suffixes: B samples, C channels, H height, W width, N patches (row by row), V patches that are looked
at, T tokens of one sequence, D values of a token, P pixel values of a patch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import INPUT_CHANNELS, Encoder, register_encoder

_BLOCKS = 12
_UNITS = 12  # values of a token, in units of the width: 768 as published
_HEAD = 64  # values of a token that one head of attention looks at
_PATCH = {"small": 4, "large": 16}  # side of a patch, by stem
_EPSILON = 1e-6  # of the normalizations, as timm and the authors of MAE have it


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2); (B, T, D) to the same shape."""

    def __init__(self, values: int, heads: int) -> None:
        """``heads`` must divide ``values``."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(values, 3 * values)
        self.proj = nn.Linear(values, values)

    def forward(self, x_BTD: Tensor) -> Tensor:
        parts = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each (B, heads, T, D / heads)
        seen = _attend(query, key, value)
        out_BTD: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out_BTD


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1) of (B, heads, T, values of a head)."""
    if not (query.is_cpu and query.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):  # a CPU's fused kernel is three to five times as slow backwards in bf16
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float())


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside; (B, T, D) to the same shape."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(values, 4 * values)
        self.fc2 = nn.Linear(4 * values, values)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.fc2(F.gelu(self.fc1(x_BTD)))
        return out_BTD


class Block(nn.Module):
    """Attention, then an MLP, each normalized before and added to what came in; (B, T, D) to the same shape.

    Source: Dosovitskiy et al. 2021, equations 2 and 3.
    """

    def __init__(self, values: int, head: int = _HEAD) -> None:
        """``head``: values that a head looks at; it gets more where that many do not divide ``values``."""
        super().__init__()
        self.norm1 = nn.LayerNorm(values, _EPSILON)
        self.attn = Attention(values, _heads(values, head))
        self.norm2 = nn.LayerNorm(values, _EPSILON)
        self.mlp = Mlp(values)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.norm1(x_BTD))
        out_BTD: Tensor = x_BTD + self.mlp(self.norm2(x_BTD))
        return out_BTD


def _heads(values: int, head: int) -> int:
    """The largest number of heads that divides ``values`` and leaves each ``head`` of them or more; at least one."""
    return next(heads for heads in range(max(1, values // head), 0, -1) if values % heads == 0)


def positions(height: int, width: int, values: int, device: torch.device | None = None) -> Tensor:
    """(N, D): sines and cosines of the column, then of the row, of every patch, row by row. ``values``: 4, 8, 12, ...

    Computed for the grid at hand, so there is one for every size of image. Sources: Vaswani et al. 2017, section 3.5;
    the layout is that of the authors of MAE, whose encoders see the same ones.
    """
    quarter = values // 4
    steps = torch.arange(quarter, dtype=torch.get_default_dtype(), device=device)
    rates_Q = 10_000.0 ** (-steps / quarter)
    angles_columns = torch.arange(width, device=device)[:, None] * rates_Q
    angles_rows = torch.arange(height, device=device)[:, None] * rates_Q
    columns, rows = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (angles_columns, angles_rows))
    # Expanded rather than repeated: ONNX has no `repeat_interleave` for a count that is known only when it runs.
    across, down = columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


def cut_into_patches(x_BCHW: Tensor, side: int) -> Tensor:
    """(B, N, P): square patches row by row, the values of each row by row and those of a pixel together."""
    B, C, H, W = x_BCHW.shape
    x = x_BCHW.reshape(B, C, H // side, side, W // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // side) * (W // side), side * side * C)


def put_together(patches_BNP: Tensor, side: int, height: int, width: int) -> Tensor:
    """(B, C, H, W): the inverse of `cut_into_patches` for images of ``height`` x ``width`` pixels."""
    B = len(patches_BNP)
    x = patches_BNP.reshape(B, height // side, width // side, side, side, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, height, width)


def initialize_xavier(module: nn.Module) -> None:
    """Linear layers uniform by fan in and fan out (Glorot and Bengio 2010), biases zero, as ViT and MAE are begun."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


class PatchEmbed(nn.Module):
    """Patches to tokens, one linear layer; it is written as the convolution that timm has."""

    def __init__(self, channels: int, values: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, values, side, side)
        nn.init.xavier_uniform_(self.proj.weight.data.view(values, -1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        map_BDHW: Tensor = self.proj(x_BCHW)
        return map_BDHW


@register_encoder("vit")
class VisionTransformer(Encoder):
    """Layers block1 to block12: a stage is a block, and ``depth`` the number of blocks.

    A token has 12 times ``width`` values, and there is a head for every 64: widths 64, 32 and 16 are ViT-Base, -Small
    and -Tiny. ``small``: patches of 4 x 4 pixels; ``large``: of 16 x 16, as published. Sides must be a multiple of it.

    A layer's map is its tokens after the last normalization, in the places of their patches: of the deepest layer that
    is what timm gives out, of the others what a shallower network would. The class token is left out of the maps. It
    has no position, and patches have computed ones (`positions`): timm's `pos_embed` is a row of zeros above them.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Raises UserError for an ``encoder.norm`` that was chosen: there is none to choose."""
        values = _UNITS * config.width
        super().__init__(config, {f"block{k + 1}": values for k in range(_BLOCKS)})
        if config.norm != "batch":  # the default
            raise UserError(
                f"encoder.norm={config.norm}: vit has layer normalization, and no other: leave encoder.norm out"
            )
        self.patch = _PATCH[config.stem]
        self.cls_token = nn.Parameter(torch.empty(1, 1, values))
        self.patch_embed = PatchEmbed(INPUT_CHANNELS[config.input], values, self.patch)
        self.blocks = nn.Sequential(*(Block(values) for _ in self.layers))
        self.norm = nn.LayerNorm(values, _EPSILON)
        initialize_xavier(self.blocks)
        nn.init.normal_(self.cls_token, std=0.02)

    def embed(self, native_BCHW: Tensor) -> Tensor:
        """(B, D, h, w): the patches' tokens before the first block, positions included. UserError, see `encode`."""
        for side in native_BCHW.shape[2:]:
            if side % self.patch or not side:
                down = max(side // self.patch, 1) * self.patch
                raise UserError(
                    f"vit cuts images into patches of {self.patch} x {self.patch} pixels, and {side} is no multiple: "
                    f"set data.size={down} or {down + self.patch}"
                )
        map_BDHW: Tensor = self.patch_embed(native_BCHW)
        values, height, width = map_BDHW.shape[1:]
        places_ND = positions(height, width, values, map_BDHW.device)
        return map_BDHW + places_ND.T.view(values, height, width)

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        """As `Encoder.encode`; UserError for sides that are no multiple of the patch's."""
        map_BDHW = self.embed(native_BCHW)
        x_BTD, maps = self._with_class(_as_tokens(map_BDHW)), {}
        for layer, block in zip(self.layers, self.blocks, strict=True):
            x_BTD = block(x_BTD)
            maps[layer] = _as_map(self._without_class(x_BTD), map_BDHW)
        return maps

    def deepest(self, native_BCHW: Tensor) -> Tensor:
        map_BDHW = self.embed(native_BCHW)
        return _as_map(self._without_class(self.blocks(self._with_class(_as_tokens(map_BDHW)))), map_BDHW)

    def look_at(self, native_BCHW: Tensor, visible_BV: Tensor) -> Tensor:
        """(B, V, D): the deepest tokens of some patches, from these alone.

        ``visible_BV``: int64, their numbers, row by row. Source: He et al. 2022, section 3, "MAE encoder".
        """
        tokens_BND = _as_tokens(self.embed(native_BCHW))
        return self._without_class(self.blocks(self._with_class(pick(tokens_BND, visible_BV))))

    def _with_class(self, x_BND: Tensor) -> Tensor:
        return torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1).to(x_BND.dtype), x_BND], dim=1)

    def _without_class(self, x_BTD: Tensor) -> Tensor:
        """The patches' tokens, normalized."""
        out_BND: Tensor = self.norm(x_BTD[:, 1:])
        return out_BND


def _as_tokens(map_BDHW: Tensor) -> Tensor:
    return map_BDHW.flatten(2).transpose(1, 2)


def _as_map(tokens_BND: Tensor, like_BDHW: Tensor) -> Tensor:
    return tokens_BND.transpose(1, 2).reshape(like_BDHW.shape)


def pick(tokens_BND: Tensor, places_BV: Tensor) -> Tensor:
    """(B, V, D): of every sample the tokens at its own places."""
    return tokens_BND.gather(1, places_BV[..., None].expand(-1, -1, tokens_BND.shape[2]))
