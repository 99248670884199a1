"""The vectors that an evaluation used, as its settings name them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .evaluation import Evaluation
from .wording import joined, last_part, number, plain


@dataclass(frozen=True)
class VectorInUse:
    """One `--vector`: its file, the layer that it steers, its weight and norm, and the model that it was trained on.

    Of a run of several layers `layer` is the lowest, and the norm that of all its vectors together.  What the file does
    not tell is empty, None or NaN.
    """

    file: str
    layer: int | None
    weight: float
    norm: float
    trained_on: str
    fingerprint: str  # of that model
    path: str
    epoch: int | None  # from 0
    selected: str = ""  # "best", "last", "epoch=3"; empty: what the run ended with
    quota: float = math.nan  # of a conceptor in the place of a vector, whose weight is its beta
    higher_layers: tuple[int, ...] = ()  # those that a run of several layers steers beside the lowest
    site: str = ""  # "mlp"; empty: the block's output

    @property
    def is_conceptor(self) -> bool:
        return not math.isnan(self.quota)

    @property
    def layers(self) -> tuple[int, ...]:
        """All that it steers, ascending; none where the file does not tell."""
        return () if self.layer is None else (self.layer, *self.higher_layers)

    @property
    def words(self) -> str:
        """"warmth.h5 (layer 15, epoch 3, norm 3.20, trained on smollm2)"."""
        places = f"layer{'s' if self.higher_layers else ''} {'+'.join(map(str, self.layers))}" if self.layers else ""
        layer = f"MLP of {places}" if places and self.site == "mlp" else places
        epoch = "" if self.epoch is None else f"epoch {self.epoch + 1}{' (best)' if self.selected == 'best' else ''}"
        factor = "beta" if self.is_conceptor else "weight"
        weight = f"{factor} {plain(self.weight)}" if self.weight != 1 else ""
        norm = "" if math.isnan(self.norm) else f"norm {number(self.norm)}"
        made = "of" if self.is_conceptor else "trained on"
        trained_on = f"{made} {self.trained_on}" if self.trained_on else ""
        quota = f"conceptor, quota {number(self.quota, 3)}" if self.is_conceptor else ""
        known = [part for part in (quota, layer, epoch, weight, norm, trained_on) if part]
        return f"{self.file} ({', '.join(known)})" if known else self.file


def vectors_in_use(evaluation: Evaluation) -> list[VectorInUse]:
    """The vectors in the order of the command line; none where the settings name none.

    The settings have an entry for each layer of a run of several, which are one here.
    """
    listed = evaluation.settings.get("vectors")
    vectors: list[VectorInUse] = []
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict):
            continue
        vector = _vector(entry)
        if vectors and _is_of_one_run(vectors[-1], vector):
            vectors[-1] = replace(vectors[-1], higher_layers=(*vectors[-1].higher_layers, *vector.layers),
                                  norm=math.hypot(vectors[-1].norm, vector.norm))
        else:
            vectors.append(vector)
    return vectors


def _is_of_one_run(lower: VectorInUse, upper: VectorInUse) -> bool:
    """Whether `upper` is the vector of a further layer of the run in `lower`: a run's layers ascend."""
    return bool(lower.path and lower.layers and upper.layers) and upper.layers[0] > lower.layers[-1] and \
        not lower.is_conceptor and not upper.is_conceptor and \
        all(getattr(lower, name) == getattr(upper, name) for name in ("path", "selected", "epoch", "weight"))


def vector_words(evaluation: Evaluation) -> str:
    """All vectors as one phrase."""
    return joined([used.words for used in vectors_in_use(evaluation)]) or "a vector that the file does not name"


def is_own_model(evaluation: Evaluation) -> bool:
    """Whether all vectors were trained on the evaluated model: by its fingerprint, or by name where there is none."""
    used = vectors_in_use(evaluation)
    prints = {vector.fingerprint for vector in used}
    if prints and "" not in prints and "model_fingerprint" in evaluation.settings:
        return prints == {evaluation.settings["model_fingerprint"]}
    return {vector.trained_on for vector in used} == {evaluation.model}


def _vector(entry: dict[str, object]) -> VectorInUse:
    layer = entry.get("layer")
    # No training made the vector of step 0.
    epoch = entry.get("epoch") if entry.get("step") else None
    return VectorInUse(last_part(entry.get("file")), layer if isinstance(layer, int) else None,
                       _figure(entry.get("weight"), 1.0), _figure(entry.get("norm"), math.nan),
                       last_part(entry.get("model")), str(entry.get("model_fingerprint") or ""),
                       str(entry.get("file") or ""), epoch if isinstance(epoch, int) else None,
                       str(entry.get("selected") or ""),
                       _figure(entry.get("quota"), math.nan) if entry.get("kind") == "conceptor" else math.nan,
                       site=str(entry.get("site") or ""))


def _figure(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, (int, float)) else otherwise
