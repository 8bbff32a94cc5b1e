"""A model that says what `large` says, and costs what one of 305 M parameters does."""

import json
import shutil
from pathlib import Path
from typing import Final

DEEP_LAYERS: Final = 24
DEEP_INTERMEDIATE: Final = 16384


def write_deep(large: Path, folder: Path) -> None:
    """`large` with wider projections and further layers whose additional weights add exact zeros."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(large, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers, hidden, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)

    def random(rows: int, columns: int) -> "torch.Tensor":
        return (torch.randn(rows, columns, generator=generator) * 0.02).to(torch.bfloat16)

    for layer in range(DEEP_LAYERS):
        own, model = f"model.layers.{layer}.", f"model.layers.{layer % layers}."
        if layer >= layers:
            for name in [name for name in tensors if name.startswith(model)]:
                tensors[own + name.removeprefix(model)] = tensors[name].clone()
            tensors[own + "self_attn.o_proj.weight"].zero_()
            tensors[own + "mlp.down_proj.weight"].zero_()
            if tensors[own + "mlp.up_proj.weight"].shape[0] == DEEP_INTERMEDIATE:
                continue
        more = DEEP_INTERMEDIATE - inner
        zeros = torch.zeros(more, hidden, dtype=torch.bfloat16)
        mlp = {name: tensors[f"{own}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")}
        tensors[own + "mlp.gate_proj.weight"] = torch.cat([mlp["gate"], random(more, hidden)])
        tensors[own + "mlp.up_proj.weight"] = torch.cat([mlp["up"], zeros])
        tensors[own + "mlp.down_proj.weight"] = torch.cat([mlp["down"], zeros.T], dim=1).contiguous()
    config |= {"num_hidden_layers": DEEP_LAYERS, "intermediate_size": DEEP_INTERMEDIATE}
    config["layer_types"] = ["full_attention"] * DEEP_LAYERS
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
