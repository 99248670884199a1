"""PEFT directories of LoRA adapters, and the weights that merging them must give."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

# What PEFT 0.17 writes of an adapter, defaults included.
DEFAULTS = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "someone/elsewhere",
    "bias": "none", "corda_config": None, "eva_config": None, "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.05,
    "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "peft_type": "LORA", "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": None,
    "target_modules": ["q_proj", "v_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False}


def named_as(module: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that the module's name ends with, in whole words, or is, after '^'."""
    for pattern in patterns:
        if pattern.startswith("^"):
            found = module == pattern[1:]
        else:
            found = module.split(".")[-len(pattern.split(".")):] == pattern.split(".")
        if found:
            return pattern
    return None


@dataclass
class Adapter:
    """Random A [r, in] and B [out, r] for each module, large enough to change every answer."""

    config: dict
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def rank(self, module: str) -> int:
        patterns = self.config["rank_pattern"]
        return patterns.get(named_as(module, patterns), self.config["r"])

    def scale(self, module: str) -> float:
        patterns = self.config["alpha_pattern"]
        alpha = patterns.get(named_as(module, patterns), self.config["lora_alpha"])
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.config["use_rslora"] else alpha / rank

    def tensor(self, module: str, part: str) -> torch.Tensor:
        return self.tensors[f"base_model.model.{module}.{part}"].double()

    def delta(self, module: str) -> torch.Tensor:
        return self.scale(module) * (self.tensor(module, "lora_B.weight") @ self.tensor(module, "lora_A.weight"))

    def modules(self) -> list[str]:
        return sorted({name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for name in self.tensors
                       if name.endswith(".lora_A.weight")})

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        save_file(self.tensors, folder / TENSORS, metadata={"format": "pt"})
        return folder

    def merged(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """float64, rounded once: V = W + scale B A, with use_dora m V / |V| by rows."""
        result = dict(weights)
        for module in self.modules():
            name = f"{module}.weight"
            merged = weights[name].double() + self.delta(module)
            if self.config["use_dora"]:
                merged *= (self.tensor(module, "lora_magnitude_vector") / merged.norm(dim=1)).unsqueeze(1)
            result[name] = merged.float()
        return result


def make_adapter(shapes: dict[str, tuple[int, int]], dtype: torch.dtype = torch.float32, seed: int = 5,
                 chosen: Callable[[str], bool] | None = None, **settings: object) -> Adapter:
    """An adapter of the modules among `shapes` ([out, in] by name) that its target_modules name, or that
    are `chosen`."""
    adapter = Adapter({**DEFAULTS, **settings})
    generator = torch.Generator().manual_seed(seed)
    is_target = chosen or (lambda module: named_as(module, adapter.config["target_modules"]) is not None)
    for module, (rows, columns) in shapes.items():
        if is_target(module):
            rank = adapter.rank(module)
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                values = 0.2 * torch.randn(shape, generator=generator)
                adapter.tensors[f"base_model.model.{module}.lora_{side}.weight"] = values.to(dtype)
            if adapter.config["use_dora"]:
                magnitude = 0.5 + torch.rand(rows, generator=generator)
                adapter.tensors[f"base_model.model.{module}.lora_magnitude_vector"] = magnitude.to(dtype)
    assert adapter.tensors, "an adapter of nothing"
    return adapter


def matrix_shapes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """[out, in] by module, of everything but the embedding."""
    return {name.removesuffix(".weight"): tuple(values.shape) for name, values in weights.items()
            if values.dim() == 2 and "embed" not in name}
