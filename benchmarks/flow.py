"""Sampling, inversion and editing errors on a mixture whose flow is known, beside the peers.

    python benchmarks/flow.py [--rows 512] [--evaluations 10 20 50 100 200] [--azula FOLDER]

The pinned mixture of tests/problems_flow.py under Stable Diffusion's noise, eight draws of points
and noises, in x / alpha. GEN: samples against a dense reference from the same noise. ENC: latents
against a dense reference from the same points, in units of the largest sigma / alpha. RT: to the
latent and back. All at the same number of network evaluations in each direction; the schedulers of
diffusers are told the exact noise at the timesteps that they ask for, and end at the table's first
noise; nan is what a scheduler itself returned. EDIT: inverted under
two components and sampled under two others. Writes docs/benchmarks/flow.md.

azula asks for torchvision, which keeps diffusers from importing beside a CPU torch, so it gets a
folder of its own, outside of the environment, and without its dependencies:

    pip install --no-deps --target runs/azula azula==0.11.1 einops==0.8.1
    python benchmarks/flow.py --azula runs/azula

It has samplers for time running down; a start of 0 and a stop of 1 makes them invert. Its own
schedule with sigma from the table's first to its last, even in the log-SNR, is what suits it best.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from report import machine, write_report
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import problems_flow as problem

from sdstoolkit import Condition, ProbabilityFlow
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
    ImplicitEuler,
    ReversibleHeun,
    Solver,
)

MODEL = problem.pinned().under(problem.SCHEDULE)
OURS: dict[str, tuple[Solver, Callable[[int], int]]] = {  # and the steps of n evaluations
    "**ExponentialAdams()**, the default": (ExponentialAdams(), lambda n: n),
    "ExponentialAdams(corrector=False)": (ExponentialAdams(corrector=False), lambda n: n),
    "DPMSolver2M()": (DPMSolver2M(), lambda n: n),
    "Euler()": (Euler(), lambda n: n),
    "ImplicitEuler(iterations=2)": (ImplicitEuler(iterations=2), lambda n: n // 2),
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


def azula(
    weights: Tensor = problem.WEIGHTS,
) -> dict[str, tuple[Callable[[Tensor, int, bool], Tensor], int]]:
    """Samplers of azula in x / alpha, and the evaluations that they take a step."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VESchedule
    from azula.sample import EulerSampler, HeunSampler, vABSampler, xEABSampler, zABSampler

    class Exact(Denoiser):
        schedule = VESchedule(problem.LEAST, problem.MOST)

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
            s = float(self.schedule(t)[1])
            return DiracPosterior(x_t - s * problem.noise(x_t, s, weights))

    def walker(kind: type, **options: object) -> Callable[[Tensor, int, bool], Tensor]:
        def walk(x: Tensor, steps: int, up: bool) -> Tensor:
            ends = {"start": 0.0, "stop": 1.0} if up else {"start": 1.0, "stop": 0.0}
            sampler = kind(
                Exact(), steps=steps, silent=True, dtype=torch.float64, **ends, **options
            )
            return sampler(x)

        return walk

    return {
        "azula Euler": (walker(EulerSampler), 1),
        "azula Heun": (walker(HeunSampler), 2),
        "azula zAB(2)": (walker(zABSampler, order=2), 1),
        "azula vAB(2)": (walker(vABSampler, order=2), 1),
        "azula xEAB(2)": (walker(xEABSampler, order=2), 1),
        "azula xEAB(3)": (walker(xEABSampler, order=3), 1),
    }


def azula_errors(walk: Callable[[Tensor, int, bool], Tensor], steps: int) -> Errors:
    draws = problem.draws()
    latent = walk(draws.data, steps, True)
    return score(walk(draws.noise, steps, False), latent, walk(latent, steps, False))


@cache
def edit_problem() -> tuple[Tensor, dict[str, tuple[Condition, Tensor]]]:
    """Points of components {0, 1}, and where the reference takes them under others."""
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
    for name, which in (("near", (1, 2)), ("far", (3, 4))):
        target = problem.components(*which)
        weights = target["weights"][0]
        rights[name] = target, problem.follow(latent, problem.MOST, problem.LEAST, 400, weights)
    return points, rights


def edits(evaluations: int, with_azula: bool) -> dict[str, dict[str, str]]:
    """Errors of a near edit, {0, 1} to {1, 2}, and of a far one, to {3, 4}."""
    source = problem.components(0, 1)
    points, rights = edit_problem()
    found: dict[str, dict[str, str]] = {}
    for method, (solver, steps) in OURS.items():
        flow = ProbabilityFlow(MODEL, solver=solver, steps=steps(evaluations))
        inverted = flow.invert(points, source)
        for name, (target, right) in rights.items():
            error = flow.edit(inverted, target) - right
            found.setdefault(method, {})[name] = _both(error)
    if with_azula:
        ways = azula(source["weights"][0])
        up = {method: go(points, evaluations // cost, True) for method, (go, cost) in ways.items()}
        for name, (target, right) in rights.items():
            back = azula(target["weights"][0])
            for method, latent in up.items():
                cost = ways[method][1]
                error = back[method][0](latent, evaluations // cost, False) - right
                found.setdefault(method, {})[name] = _both(error)
    return found


def _both(error: Tensor) -> str:
    return f"{problem.rms(error):.1e} ({problem.median(error):.1e})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    parser.add_argument("--azula", metavar="FOLDER", help="where azula was installed")
    options = parser.parse_args(arguments)
    if options.azula:
        sys.path.append(options.azula)
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
        if options.azula:
            for name, (go, cost) in azula().items():
                found.setdefault(name, {})[n] = azula_errors(go, n // cost)
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
    edited = {n: edits(n, bool(options.azula)) for n in options.evaluations}
    for kind in ("near", "far"):
        tables[f"EDIT, {kind}: root mean square (median point)"] = [
            {"method": name} | {str(n): rows[name][kind] for n, rows in edited.items()}
            for name in next(iter(edited.values()))
        ]
    write_report("flow", "The probability flow on the pinned mixture", tables, machine())


if __name__ == "__main__":
    main()
