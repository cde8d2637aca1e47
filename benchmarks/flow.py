"""Sampling, inversion and editing errors on a mixture whose flow is known, beside diffusers.

    python benchmarks/flow.py [--rows 512] [--evaluations 10 20 50 100 200]

The pinned mixture of tests/problems_flow.py under Stable Diffusion's noise, eight draws of points
and noises, in x / alpha. GEN: samples against a dense reference from the same noise. ENC: latents
against a dense reference from the same points, in units of the largest sigma / alpha. RT: to the
latent and back. All at the same number of network evaluations in each direction; the schedulers of
diffusers are told the exact noise at the timesteps that they ask for, and end at the table's first
noise; nan is what a scheduler itself returned. Writes docs/benchmarks/flow.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from report import machine, write_report
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import problems_flow as problem

from sdstoolkit import ProbabilityFlow
from sdstoolkit.solvers import (
    BDIA,
    EDICT,
    OBELM,
    RK4,
    DPMSolver2M,
    Euler,
    ExponentialAdams,
    Fraction,
    Heun,
    ReversibleHeun,
    Solver,
)

MODEL = problem.pinned().under(problem.SCHEDULE)
OURS: dict[str, tuple[Solver, Callable[[int], int]]] = {  # and the steps of n evaluations
    "**ExponentialAdams()**, the default": (ExponentialAdams(), lambda n: n),
    "ExponentialAdams(corrector=False)": (ExponentialAdams(corrector=False), lambda n: n),
    "DPMSolver2M()": (DPMSolver2M(), lambda n: n),
    "Euler()": (Euler(), lambda n: n),
    "Heun()": (Heun(), lambda n: n // 2),
    "RK4()": (RK4(), lambda n: n // 4),
    "ReversibleHeun()": (ReversibleHeun(), lambda n: n - 1),
    "ReversibleHeun(coordinate=Fraction())": (
        ReversibleHeun(coordinate=Fraction()),
        lambda n: n - 1,
    ),
    "OBELM()": (OBELM(), lambda n: n - 3),
    "BDIA()": (BDIA(), lambda n: n),
    "EDICT()": (EDICT(), lambda n: n // 2),
}


@dataclass(frozen=True)
class Errors:
    """The errors of one method at one number of evaluations; NaN where it has no such thing."""

    gen: float
    enc: float = float("nan")
    rt: float = float("nan")
    rt_rms: float = float("nan")


def score(sample: Tensor, latent: Tensor | None = None, back: Tensor | None = None) -> Errors:
    draws = problem.draws()
    gen = problem.median(sample - draws.sample)
    if latent is None or back is None:
        return Errors(gen)
    enc = problem.rms(latent - draws.latent) / problem.MOST
    trip = back - draws.data
    return Errors(gen, enc, problem.median(trip), problem.rms(trip))


def ours(solver: Solver, steps: int) -> Errors:
    draws = problem.draws()
    flow = ProbabilityFlow(MODEL, solver=solver, steps=steps)
    alpha = problem.SCHEDULE(flow.times[:1])[0]
    inverted = flow.invert(draws.data)
    ends = list(flow.steps(alpha * draws.noise))[-1].x / problem.SCHEDULE(flow.times[-1:])[0]
    return score(ends, inverted.x_T / alpha, flow.replay(inverted))


def walk(scheduler: object, x: Tensor, steps: int) -> Tensor:
    """A scheduler of diffusers, told the exact noise; x is a state and stays one."""
    scheduler.set_timesteps(steps)
    for k in scheduler.timesteps:
        eps = MODEL(x, float(k) / (problem.SCHEDULE.steps - 1)).eps
        x = scheduler.step(eps, k, x).prev_sample.double()
    return x


def diffusers() -> dict[str, tuple[Callable[[], object], Callable[[], object] | None]]:
    """Schedulers, and their inverses where there are some, at the settings of SD or better."""
    from diffusers import (
        DDIMInverseScheduler,
        DDIMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepInverseScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
    )

    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ddim = table | {"clip_sample": False, "set_alpha_to_one": False}
    end = table | {"final_sigmas_type": "sigma_min"}
    karras, even = {"use_karras_sigmas": True}, {"use_lu_lambdas": True}

    def dpm(**options: object) -> Callable[[], object]:
        return lambda: DPMSolverMultistepScheduler(**end, **options)

    def dpm_up(**options: object) -> Callable[[], object]:
        return lambda: DPMSolverMultistepInverseScheduler(**table, **options)

    return {
        "diffusers DDIM": (
            lambda: DDIMScheduler(**ddim, timestep_spacing="trailing"),
            lambda: DDIMInverseScheduler(**ddim, timestep_spacing="trailing"),
        ),
        "diffusers DPM-Solver++(2M)": (dpm(), dpm_up()),
        "diffusers DPM-Solver++(2M), karras": (dpm(**karras), dpm_up(**karras)),
        "diffusers DPM-Solver++(2M), lu lambdas": (dpm(**even), None),
        "diffusers DPM-Solver++(3M), lu lambdas": (dpm(**even, solver_order=3), None),
        "diffusers UniPC": (lambda: UniPCMultistepScheduler(**end), None),
        "diffusers UniPC, karras": (lambda: UniPCMultistepScheduler(**end, **karras), None),
        "diffusers UniPC(3), karras": (
            lambda: UniPCMultistepScheduler(**end, **karras, solver_order=3),
            None,
        ),
        "diffusers DEIS, karras": (
            lambda: DEISMultistepScheduler(**table, **karras, algorithm_type="deis"),
            None,
        ),
    }


def theirs(
    down: Callable[[], object], up: Callable[[], object] | None, evaluations: int
) -> Errors:
    draws = problem.draws()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    low, high = problem.SCHEDULE(ends)[0].tolist()
    sample = walk(down(), high * draws.noise, evaluations) / low
    if up is None:
        return score(sample)
    latent = walk(up(), low * draws.data, evaluations) / high
    return score(sample, latent, walk(down(), high * latent, evaluations) / low)


def edits(evaluations: int) -> list[dict[str, str]]:
    """T7: inverted under components {0, 1}, sampled under {1, 2} or {3, 4}."""
    source = problem.components(0, 1)
    mixture = problem.pinned()
    mixture.log_weights = source["weights"][0].log()
    x_0 = []
    for k in range(problem.DRAWS):
        rng = torch.Generator().manual_seed(k)
        noise = torch.randn(256, 2, generator=rng, dtype=torch.float64)
        x_0.append(mixture.sample(256, seed=k, dtype=torch.float64) + problem.LEAST * noise)
    points = torch.cat(x_0)
    latent = problem.follow(points, problem.LEAST, problem.MOST, 400, source["weights"][0])
    rights = {}
    for name, which in (("near edit", (1, 2)), ("far edit", (3, 4))):
        target = problem.components(*which)
        weights = target["weights"][0]
        rights[name] = target, problem.follow(latent, problem.MOST, problem.LEAST, 400, weights)
    rows = []
    for method, (solver, steps) in OURS.items():
        flow = ProbabilityFlow(MODEL, solver=solver, steps=steps(evaluations))
        inverted = flow.invert(points, source)
        row = {"method": method}
        for edit, (target, right) in rights.items():
            error = flow.edit(inverted, target) - right
            row[edit] = f"{problem.rms(error):.1e} ({problem.median(error):.1e})"
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    options = parser.parse_args(arguments)
    problem.ROWS = options.rows
    found: dict[str, dict[int, Errors]] = {}
    for n in options.evaluations:
        for name, (solver, steps) in OURS.items():
            found.setdefault(name, {})[n] = ours(solver, steps(n))
        for name, (down, up) in diffusers().items():
            try:
                errors = theirs(down, up, n)
            except (ValueError, IndexError) as error:
                print(f"{name} at {n}: {error}")
                errors = Errors(float("nan"))
            found.setdefault(name, {})[n] = errors
    titles = {
        "gen": "GEN: samples, median point",
        "enc": "ENC: latents, root mean square",
        "rt": "RT: round trip, median point",
        "rt_rms": "RT: round trip, root mean square",
    }
    tables = {}
    for key, title in titles.items():
        rows = [
            {"method": name} | {str(n): f"{getattr(e, key):.1e}" for n, e in by.items()}
            for name, by in found.items()
        ]
        tables[title] = [r for r in rows if not all(v == "nan" for v in list(r.values())[1:])]
    tables["Edits at 50 evaluations each way, root mean square (median point)"] = edits(50)
    write_report("flow", "The probability flow on the pinned mixture", tables, machine())


if __name__ == "__main__":
    main()
