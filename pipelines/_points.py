"""`sds langevin --density`: points from a law in the plane, and how they came to be."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job


def draw(job: "Job", options: Any, annealed: Callable[..., Any]) -> None:
    """Draw points from a law in the plane, by the sampler that ``annealed`` makes of a score."""
    from sdstoolkit.studies import points

    if options.prompt or len(job.seeds) > 1:
        raise ValueError("--density takes no prompt and one seed, which names all of its points")
    law, (seed,) = points.law(options.density), job.todo
    with job:
        job.note(law=options.density, schedule=points.SCHEDULE.describe())
        sampler = annealed(law.under(points.SCHEDULE), options)
        title = f"{options.sampler}, {options.density}"
        image = points.draw(job.file, law, sampler, options.points, seed=seed, title=title)
        job.keep(seed, image, state="done", steps=options.levels + 1)
