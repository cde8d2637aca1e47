"""Score distillation and guidance on pretrained diffusion models.

A pretrained network becomes a `ScoreModel`; a `ScoreModel` returns a `Prediction`; every algorithm
reads a `Prediction`.

```python
from sdstoolkit import SDS, Pixels, load, optimize

prior = load("shapes")
canvas = Pixels(prior, n=1, seed=0)
for step in optimize(canvas, SDS(prior, "a red heart on a white background", scale=30)):
    print(step.index, step.loss)
canvas.save("heart.png")
```

Names are imported when they are first used: importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdstoolkit.adapters import load as load
    from sdstoolkit.canvas import Canvas as Canvas
    from sdstoolkit.canvas import Latents as Latents
    from sdstoolkit.canvas import Pixels as Pixels
    from sdstoolkit.codec import Codec as Codec
    from sdstoolkit.codec import KLCodec as KLCodec
    from sdstoolkit.condition import Condition as Condition
    from sdstoolkit.distill import SDS as SDS
    from sdstoolkit.distill import Distiller as Distiller
    from sdstoolkit.guidance import ClassifierFree as ClassifierFree
    from sdstoolkit.images import read_image as read_image
    from sdstoolkit.images import write_image as write_image
    from sdstoolkit.noise import EDM as EDM
    from sdstoolkit.noise import VE as VE
    from sdstoolkit.noise import VP as VP
    from sdstoolkit.noise import Cosine as Cosine
    from sdstoolkit.noise import Discrete as Discrete
    from sdstoolkit.noise import NoiseLevel as NoiseLevel
    from sdstoolkit.noise import Rectified as Rectified
    from sdstoolkit.noise import Schedule as Schedule
    from sdstoolkit.noise import SubVP as SubVP
    from sdstoolkit.optimization import optimize as optimize
    from sdstoolkit.prediction import Epsilon as Epsilon
    from sdstoolkit.prediction import Flow as Flow
    from sdstoolkit.prediction import Karras as Karras
    from sdstoolkit.prediction import Parameterization as Parameterization
    from sdstoolkit.prediction import Prediction as Prediction
    from sdstoolkit.prediction import Sample as Sample
    from sdstoolkit.prediction import Score as Score
    from sdstoolkit.prediction import V as V
    from sdstoolkit.prior import Prior as Prior
    from sdstoolkit.samplers import Inverted as Inverted
    from sdstoolkit.samplers import ProbabilityFlow as ProbabilityFlow
    from sdstoolkit.samplers.annealed import AnnealedLangevin as AnnealedLangevin
    from sdstoolkit.samplers.ddim import DDIM as DDIM
    from sdstoolkit.samplers.langevin import Langevin as Langevin
    from sdstoolkit.samplers.mala import MALA as MALA
    from sdstoolkit.samplers.predictor_corrector import PredictorCorrector as PredictorCorrector
    from sdstoolkit.score import ScoreModel as ScoreModel
    from sdstoolkit.score import combine as combine

__version__ = "0.1.0"

_HOMES = {
    "adapters": "load",
    "canvas": "Canvas Latents Pixels",
    "codec": "Codec KLCodec",
    "condition": "Condition",
    "distill": "SDS Distiller",
    "guidance": "ClassifierFree",
    "images": "read_image write_image",
    "noise": "EDM VE VP Cosine Discrete NoiseLevel Rectified Schedule SubVP",
    "optimization": "optimize",
    "prediction": "Epsilon Flow Karras Parameterization Prediction Sample Score V",
    "prior": "Prior",
    "samplers": "Inverted ProbabilityFlow",
    "samplers.annealed": "AnnealedLangevin",
    "samplers.ddim": "DDIM",
    "samplers.langevin": "Langevin",
    "samplers.mala": "MALA",
    "samplers.predictor_corrector": "PredictorCorrector",
    "score": "ScoreModel combine",
}
_HOME = {n: f"{__name__}.{module}" for module, names in _HOMES.items() for n in names.split()}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
