"""`sds langevin --density`: points from a law in the plane, and how they came to be."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job


def drawing(annealed: Callable[..., Any]) -> Callable[["Job", Any], None]:
    """What makes points and their pictures, by the sampler ``annealed(score, options)``."""

    def draw(job: "Job", options: Any) -> None:
        from sdstoolkit.studies import points

        if options.prompt or options.prompts or len(job.seeds) > 1:
            raise ValueError("--density takes no prompt and one seed, which names all its points")
        law, (seed,) = points.law(options.density), job.mine
        with job:
            job.note(law=options.density, schedule=points.SCHEDULE.describe())
            sampler = annealed(law.under(points.SCHEDULE), options)
            title = f"{options.sampler}, {options.density}"
            image = points.draw(job.file, law, sampler, options.points, seed=seed, title=title)
            job.keep(seed, image, state="done", steps=options.levels + 1)
            job.gather()

    return draw
