"""What one SDS step costs, over what it cannot do without.

    python benchmarks/step_cost.py [--model shapes] [--batch 4] [--rounds 40]

The necessary parts are one batched network call without a graph and, from pixels, the encoder's
forward and backward pass. Beside them stands a step written as the field's reference code does it:
the prompt encoded anew, the network's graph kept, the latents decoded though nobody looks, the
gradient read back to the host for the log. All are interleaved in one process; the figures are
medians, the ratio is that of medians. Writes docs/benchmarks/step_cost.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from report import machine, write_report

from sdstoolkit import SDS, Canvas, Latents, Pixels, Prior, load, optimize

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
    write_report("step_cost", "What one SDS step costs", {f"`{args.model}`": rows}, machine())


if __name__ == "__main__":
    main()
