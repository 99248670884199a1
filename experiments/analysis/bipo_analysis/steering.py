"""Steers a model of transformers (4 or 5) with vectors of run files and conceptors, as the program itself does.

Needs torch, which the rest of the package does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from .conceptor import Conceptor, is_conceptor_file, load_conceptor
from .errors import AnalysisError
from .run import Run, load_run
from .summary import outcomes

if TYPE_CHECKING:
    import torch

# FILE, FILE:best, FILE:last or FILE:epoch=3, each with @WEIGHT behind it where it has one.
_WEIGHT = re.compile(r"(?P<file>.+)@(?P<weight>[-+]?[\d.]+(?:e[-+]?\d+)?)")
_SELECTION = re.compile(r"(?P<file>.+):(?P<selection>best|last|epoch=(?P<epoch>\d+))")
_ENDS = re.compile(r"(?:first:(?P<first>\d+))?(?:[,+])?(?:last:(?P<last>\d+))?")
SITES = ("block", "mlp")
POSITIONS = ("all", "answer", "prompt", "first:P,last:S")


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector times its weight, float32 [hidden size], and the block, from 0, to which it is added.

    `site` says where: "block", at its output, or "mlp", at what its MLP returns.  `positions` and `steer_bos` are those
    of its training, where a run file says them.
    """

    layer: int
    value: numpy.ndarray
    name: str
    positions: str = "all"
    steer_bos: bool = True
    site: str = "block"


def _weighted(spec: str | Path) -> tuple[str, float]:
    """The file, with its selection, and the weight behind it; a file that exists under the longer name is meant."""
    file = str(spec)
    if Path(file).exists() or not (weighted := _WEIGHT.fullmatch(file)):
        return file, 1.0
    try:
        return weighted["file"], float(weighted["weight"])
    except ValueError as error:
        raise AnalysisError(f"{spec}: the weight behind @ is not a number") from error


def _load(spec: str | Path | Run) -> Sequence[SteeringVector | Conceptor]:
    if not isinstance(spec, Run):
        file, weight = _weighted(spec)
        if is_conceptor_file(file):
            return [replace(load_conceptor(file, weight), name=str(spec))]
    return load_vectors(spec)


def load_vector(spec: str | Path | Run) -> SteeringVector:
    """The vector that a run of one layer ended with, or the one that `spec` names, as `--vector` of the program does.

    "run.h5", "run.h5:best" (the epoch with the largest held-out margin at +1 less that at -1), "run.h5:last",
    "run.h5:epoch=3" (counted from 1); "@0.5" behind any of them is a weight.  A file that exists under the longer name
    is meant before one of a shorter name.  Raises AnalysisError for what is not there.
    """
    vectors = load_vectors(spec)
    if len(vectors) > 1:
        raise AnalysisError(f"{vectors[0].name}: holds a vector for each of {len(vectors)} layers; load_vectors gives "
                            "them all")
    return vectors[0]


def load_vectors(spec: str | Path | Run) -> list[SteeringVector]:
    """The same for a run of any number of layers: the vector of each, the lowest layer's first."""
    if isinstance(spec, Run):
        return _of_layers(spec, _chosen(spec, spec.name, "", ""), spec.name)
    (file, weight), selection, epoch = _weighted(spec), "", ""
    if not Path(file).exists() and (selected := _SELECTION.fullmatch(file)):
        file, selection, epoch = selected["file"], selected["selection"], selected["epoch"] or ""
    run = load_run(file)
    return _of_layers(run, numpy.float32(weight) * _chosen(run, file, selection, epoch), str(spec))


def _of_layers(run: Run, value: numpy.ndarray, name: str) -> list[SteeringVector]:
    return [SteeringVector(layer, part, name, *_trained_positions(run), run.site)
            for layer, part in zip(run.layers, numpy.split(value, len(run.layers)), strict=True)]


def _trained_positions(run: Run) -> tuple[str, bool]:
    return str(run.settings.get("steered_positions", "all")), bool(run.settings.get("steer_bos", True))


def _chosen(run: Run, file: str, selection: str, epoch: str) -> numpy.ndarray:
    if len(run.vectors) == 0:
        raise AnalysisError(f"{file}: no vector was saved yet")
    if not selection:
        return run.vectors[run.result_row]
    if selection == "last":
        return run.vectors[-1]
    best = selection == "best"
    wanted = int(epoch) - 1 if epoch else int(outcomes(run.evals).get("best_epoch", -1))  # type: ignore[call-overload]
    if best and wanted < 0:
        raise AnalysisError(f"{file}: no epoch is the best, for nothing was evaluated at multipliers -1 and 1")
    places = numpy.flatnonzero(run.vector_epochs == wanted)
    if len(places) == 0:
        saved = ", ".join(str(int(value) + 1) for value in run.vector_epochs)
        raise AnalysisError(f"{file}: holds no vector of epoch {wanted + 1}, counted from 1; it has {saved}")
    return run.vectors[places[-1]]


class Steering:
    """Steers `model` between enter and exit; `multiplier` may be changed on the way."""

    def __init__(self, model: torch.nn.Module, vectors: Sequence[SteeringVector | Conceptor], multiplier: float,
                 positions: str, prompt_tokens: int | Sequence[int] | None, left_out: int):
        ends = _ENDS.fullmatch(positions)
        first, last = (int(count or 0) for count in ends.groups()) if ends else (0, 0)
        if positions not in POSITIONS[:3] and first + last == 0:
            raise AnalysisError(f"positions is '{positions}'; it must be one of {', '.join(POSITIONS)}")
        if positions != "all" and prompt_tokens is None:
            raise AnalysisError(f"positions='{positions}' needs prompt_tokens, the tokens of the prompt, one number "
                                "for all rows or one for each")
        self.multiplier = multiplier
        self._positions = positions
        self._ends = (first, last)
        self._left_out = left_out
        self._prompt_tokens = prompt_tokens
        self._blocks = blocks_of(model)
        self._handles: list[Any] = []
        hidden = _text_config(model).hidden_size
        # What acts at each site of a block, in the order given; vectors that follow each other are one sum.
        self._acts: dict[tuple[int, str], list[numpy.ndarray | Conceptor]] = {}
        for vector in vectors:
            if not 0 <= vector.layer < len(self._blocks):
                raise AnalysisError(f"{vector.name}: steers block {vector.layer}, but the model has blocks 0 to "
                                    f"{len(self._blocks) - 1}")
            site = "block" if isinstance(vector, Conceptor) else vector.site
            if site not in SITES:
                raise AnalysisError(f"{vector.name}: its site is '{site}'; this package knows {' and '.join(SITES)}")
            if site == "mlp":
                mlp_of(self._blocks[vector.layer])
            acts = self._acts.setdefault((vector.layer, site), [])
            if isinstance(vector, Conceptor):
                if vector.matrix.shape != (hidden, hidden):
                    raise AnalysisError(f"{vector.name}: is a conceptor of hidden size {len(vector.matrix)}, but the "
                                        f"model's is {hidden}")
                acts.append(vector)
                continue
            if vector.value.shape != (hidden,):
                raise AnalysisError(f"{vector.name}: has {vector.value.size} numbers, but the model's hidden size is "
                                    f"{hidden}")
            if acts and not isinstance(acts[-1], Conceptor):
                acts[-1] = acts[-1] + vector.value
            else:
                acts.append(vector.value)

    def __enter__(self) -> Steering:
        if self._handles:
            raise AnalysisError("this steering is in force already")
        for (layer, site), acts in self._acts.items():
            block = self._blocks[layer]
            # An MLP is not told the positions; its block is, before it.
            told: dict[str, Any] = {}
            if site == "mlp":
                self._handles.append(block.register_forward_pre_hook(
                    lambda _, __, inputs, told=told: told.update(position_ids=inputs.get("position_ids")),
                    with_kwargs=True))
            for act in acts:
                hook = self._hook(self._changed_by(act), told if site == "mlp" else None)
                module = block if site == "block" else mlp_of(block)
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _changed_by(self, act: numpy.ndarray | Conceptor) -> Any:
        """A function of h [rows, tokens, hidden size] that says what is added to it at the multiplier now in force."""
        import torch

        if isinstance(act, Conceptor):
            matrix, beta = torch.from_numpy(numpy.array(act.matrix, dtype=numpy.float32)), act.beta
            # The rows of C are its columns.
            return lambda h: self.multiplier * (beta * (h @ matrix.to(device=h.device, dtype=h.dtype)) - h)
        vector = torch.from_numpy(numpy.array(act, dtype=numpy.float32))
        return lambda h: (self.multiplier * vector).to(device=h.device, dtype=h.dtype)

    def _hook(self, change: Any, told: dict[str, Any] | None) -> Any:
        """`told`: what the module's block was called with, where it is not the block itself."""
        def hook(_: Any, __: Any, inputs: dict[str, Any], output: Any) -> Any:
            if self.multiplier == 0:
                return output
            h = output[0] if isinstance(output, tuple) else output
            added = change(h)
            if self._positions != "all" or self._left_out:
                places = (inputs if told is None else told).get("position_ids")
                added = added * self._is_steered(places, h).to(h.dtype)
            steered = h + added
            return (steered, *output[1:]) if isinstance(output, tuple) else steered
        return hook

    def _is_steered(self, places: Any, h: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, 1], true where a row's token is at the positions."""
        import torch

        if places is None or places.dim() != 2 or places.shape[1] != h.shape[1]:
            raise AnalysisError(f"positions='{self._positions}' needs position_ids of one number a token, which this "
                                "model's blocks do not receive")
        count = torch.as_tensor(0 if self._prompt_tokens is None else self._prompt_tokens,
                                device=places.device).reshape(-1, 1)
        in_prompt = places < count
        if self._positions == "all":
            steered = torch.ones_like(places, dtype=torch.bool)
        elif self._positions == "answer":
            steered = ~in_prompt
        elif self._positions == "prompt":
            steered = in_prompt
        else:
            first, last = self._ends
            steered = in_prompt & ((places < first + self._left_out) | (places >= count - last))
        # An answer's tokens are never left out.
        steered = steered & (places >= self._left_out)
        return steered.expand(h.shape[0], -1).unsqueeze(-1).to(h.device)


def steer(model: torch.nn.Module, vectors: str | Path | Run | SteeringVector | Conceptor | Sequence[Any],
          multiplier: float = 1.0, positions: str | None = None, prompt_tokens: int | Sequence[int] | None = None,
          left_out: int | None = None) -> Steering:
    """A context in which every forward pass of `model` is steered, generate() included.

        with steer(model, "run.h5:best", multiplier=1.5):
            model.generate(...)

    `vectors` is one or several of what load_vectors takes, and conceptors, or their files with "@0.5" for a beta; those
    of one block act in their order, and vectors add up; each acts at the site of its training, those at a block's MLP
    before those at its output.  `positions` are those of --positions, by default the training's; all but "all" need
    `prompt_tokens`, and go by the position_ids: padding on the left does not count, provided that an attention mask is
    given to generate(), or position_ids to a forward pass.
    `left_out` is the number of tokens at the beginning of each row that are not steered and do not count as the
    prompt's first: 1 for a begin-of-sequence token with --steer-bos off, which a run that was trained so needs to be
    told.  In bfloat16, h + v loses the digits of a short v; the program keeps the stream in float32.  Raises
    AnalysisError for a vector that does not fit, and where vectors were trained at different positions.
    """
    several = [vectors] if isinstance(vectors, (str, Path, Run, SteeringVector, Conceptor)) else list(vectors)
    loaded = [act for each in several
              for act in ([each] if isinstance(each, (SteeringVector, Conceptor)) else _load(each))]
    if positions is None:
        trained = dict.fromkeys(_positions(each)[0] for each in loaded)
        if len(trained) > 1:
            raise AnalysisError(f"the vectors were trained at different positions ({'; '.join(trained)}); give "
                                "positions for all of them")
        positions = next(iter(trained), "all")
    if left_out is None and not all(_positions(each)[1] for each in loaded):
        raise AnalysisError("a vector was trained with --steer-bos off; give left_out, 1 where rows begin with a "
                            "begin-of-sequence token, else 0")
    return Steering(model, loaded, multiplier, positions, prompt_tokens, left_out or 0)


def _positions(loaded: SteeringVector | Conceptor) -> tuple[str, bool]:
    """Those that a use is meant for unless it says others, and whether a begin-of-sequence token is steered."""
    return ("all", True) if isinstance(loaded, Conceptor) else (loaded.positions, loaded.steer_bos)


def blocks_of(model: torch.nn.Module) -> Any:
    """The blocks of the text model, in order.  Raises AnalysisError where other lists look the same."""
    import torch

    count = _text_config(model).num_hidden_layers
    found = [(name, module) for name, module in model.named_modules()
             if isinstance(module, torch.nn.ModuleList) and len(module) == count
             and not re.search(r"vision|visual|audio|encoder", name)]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise AnalysisError(f"the model has {count} blocks, but lists of that many modules are: {names}")
    return found[0][1]


def mlp_of(block: torch.nn.Module) -> torch.nn.Module:
    """The feed-forward module of a block.  Raises AnalysisError where none has a name that it is known by."""
    import torch

    for name in ("mlp", "shared_mlp"):
        module = getattr(block, name, None)
        if isinstance(module, torch.nn.Module):
            return module
    raise AnalysisError(f"a vector is for the output of an MLP, but a {type(block).__name__} has no module mlp")


def _text_config(model: torch.nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config
