"""What one SDS step costs, over what it cannot do without.

    python benchmarks/step_cost.py [--model shapes] [--batch 4] [--rounds 40]

The necessary parts are one batched network call without a graph and, from pixels, the encoder's
forward and backward pass. Beside them stands a step written as the field's reference code does it:
the prompt encoded anew, the network's graph kept, the latents decoded though nobody looks, the
gradient read back to the host for the log. And every other loss on latents beside its calls of
networks made by themselves, the differentiated ones with their way back. All are interleaved in
one process; the figures are medians, the ratio is that of medians. Writes
docs/benchmarks/step_cost.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from report import machine, write_report
from torch import Tensor

from sdstoolkit import SDS, Canvas, Latents, Pixels, Prior, ScoreModel, load, optimize
from sdstoolkit.choices import EDITING, Reward
from sdstoolkit.distill import cards
from sdstoolkit.making import make_loss
from sdstoolkit.pipelines.optimize import Options

PROMPT = "a red heart on a white background"
SCALE = 30.0


def necessary(prior: Prior, canvas: Canvas) -> Callable[[], None]:
    """One network call of 2 n rows without a graph; from pixels one encoder pass both ways."""
    network, text = (
        prior.score.network,
        torch.cat([prior.condition(PROMPT)["text"]] * (2 * canvas.n)),
    )
    x_t = torch.randn(2 * canvas.n, *prior.score.shape, device=prior.device)
    k = torch.full((2 * canvas.n,), 500.0, device=prior.device)
    image = torch.rand(canvas.n, 3, *prior.size, device=prior.device, requires_grad=True)
    upstream = torch.randn(canvas.n, *prior.score.shape, device=prior.device)

    def step() -> None:
        with torch.no_grad():
            network(x_t, k, encoder_hidden_states=text)
        if isinstance(canvas, Pixels):
            encoded = prior.codec.autoencoder.encode(2 * image - 1).latent_dist.mean
            torch.autograd.grad(encoded, image, upstream)

    return step


def ours(prior: Prior, canvas: Canvas) -> Callable[[], None]:
    """The next step of `optimize`, as anybody runs it."""
    steps: Iterator = optimize(canvas, SDS(prior, PROMPT, scale=SCALE), steps=10**6)
    return lambda: next(steps)


def reference(prior: Prior, canvas: Canvas) -> Callable[[], None]:
    """A step with the habits of the field's reference code."""
    theta = list(canvas.parameters())
    adam = torch.optim.Adam(theta, lr=0.05)
    network, codec, schedule = prior.score.network, prior.codec, prior.schedule

    def step() -> None:
        n = canvas.n
        text = torch.cat(
            [prior.condition([PROMPT] * n)["text"], prior.condition([""] * n)["text"]]
        )
        adam.zero_grad()
        x_0 = codec.encode(canvas.image()) if isinstance(canvas, Pixels) else canvas.x_0()
        level = schedule.level(0.02 + 0.96 * torch.rand(n, dtype=torch.float64), x_0)
        eps = torch.randn_like(x_0)
        x_t = level.perturb(x_0.detach(), eps)
        k = schedule.timestep(level.t).float().repeat(2)
        output = network(
            torch.cat([x_t] * 2).requires_grad_(), k, encoder_hidden_states=text
        ).sample
        told, untold = output.chunk(2)
        guided = prior.score.parameterization.resolve(untold + SCALE * (told - untold), x_t, level)
        gradient = torch.nan_to_num(level.sigma**2 * (guided.eps - eps)).detach()
        with torch.no_grad():
            codec.decode(x_0)
        (0.5 * (x_0 - (x_0 - gradient).detach()).square().sum() / n).backward()
        adam.step()
        gradient.norm().item()

    return step


@dataclass
class Call:
    """A call of a network as a loss made it, to be made again by itself."""

    module: Any
    args: tuple
    kwargs: dict[str, Any]
    towards: list[Tensor]  # what is differentiated by: the input or the network's parameters

    def __call__(self) -> None:
        with torch.set_grad_enabled(bool(self.towards)):
            out = self.module(*self.args, **self.kwargs)
        out = out if isinstance(out, Tensor) else out[0]
        if self.towards:
            torch.autograd.grad(out.sum(), self.towards)


def calls_of(step: Callable[[], object], modules: Iterable[Any]) -> list[Call]:
    """The calls of the modules in one step, with their inputs as they were."""
    found: list[Call] = []

    def see(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        towards: list[Tensor] = []
        if torch.is_grad_enabled():
            if args[0].requires_grad:
                args = (args[0].detach().requires_grad_(), *args[1:])
                towards = [args[0]]
            else:
                towards = [p for p in module.parameters() if p.requires_grad]
        found.append(Call(module, args, kwargs, towards))

    hooks = [m.register_forward_pre_hook(see, with_kwargs=True) for m in modules]
    step()
    for hook in hooks:
        hook.remove()
    return found


def losses(prior: Prior, n: int, rounds: int) -> list[dict[str, str]]:
    """A row for each loss whose number of rows is the same in every step.

    What is necessary is the calls of the networks as the step makes them, by themselves: those of
    the model or of a fitted twin, whose rows are those of the card, and a reward's decoder.
    """
    rows = []
    null = torch.zeros(1, *prior.score.shape, device=prior.device)
    for name, card in cards().items():
        if not isinstance(card.rows, int):
            continue
        options = Options(
            prompt=PROMPT, out="", loss=name, reward=Reward(colour="1,0,0"), source_prompt=PROMPT
        )
        image = prior.codec.decode(null).clamp(0, 1) if name in EDITING else None
        canvas, loss = Latents(prior, n=n), make_loss(options, prior, image)
        walk = optimize(canvas, loss, steps=10**6)
        own = [m.network for m in loss.modules() if isinstance(m, ScoreModel)]
        networks = list(dict.fromkeys([prior.score.network, *own]))
        next(walk)  # what is made once is made
        watched = [*networks, prior.codec.autoencoder.decoder]
        calls = calls_of(lambda walk=walk: next(walk), watched)
        asked = [call for call in calls if call.module in networks]
        assert sum(len(call.args[0]) for call in asked) == n * (card.rows + card.fitted), name
        steps = {
            "rows": lambda calls=calls: [call() for call in calls],
            "step": lambda walk=walk: next(walk),
        }
        seconds = median_seconds(steps, rounds)
        rows.append({
            "loss": f"`{name}`", "images": str(n), "rows": str(card.rows + card.fitted),
            "with a graph": str(card.passes), "calls": str(len(calls)),
            "calls alone, ms": f"{1e3 * seconds['rows']:.1f}",
            "a step, ms": f"{1e3 * seconds['step']:.1f}",
            "step / calls": f"{seconds['step'] / seconds['rows']:.2f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def median_seconds(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median wall time of each, interleaved, after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 2):
        for name, step in steps.items():
            _wait()
            started = time.perf_counter()
            step()
            _wait()
            if round_ >= 2:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--losses", action="store_true", help="every loss, too")
    args = parser.parse_args()
    prior = load(args.model)
    rows = []
    for kind in (Pixels, Latents):
        for n in args.batch:
            makers = {"necessary": necessary, "ours": ours, "reference": reference}
            steps = {name: make(prior, kind(prior, n=n)) for name, make in makers.items()}
            seconds = median_seconds(steps, args.rounds)
            base = seconds["necessary"]
            rows.append(
                {"canvas": kind.__name__, "images": str(n)}
                | {f"{name}, ms": f"{1e3 * s:.1f}" for name, s in seconds.items()}
                | {
                    f"{name} / necessary": f"{seconds[name] / base:.2f}"
                    for name in ("ours", "reference")
                }
            )
            print(rows[-1], flush=True)
    tables = {f"`{args.model}`": rows}
    if args.losses:
        count = max(args.batch)
        tables["Every loss on latents"] = losses(prior, count, args.rounds)
    write_report("step_cost", "What a step costs", tables, machine())


if __name__ == "__main__":
    main()
