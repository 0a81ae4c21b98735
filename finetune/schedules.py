"""Noise schedules: a base's own, for training and for sampling by other schedulers."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline

from core.errors import UserError

NEAR = 0.85  # of a schedule: no image begins before


def rescheduled(kind: type[Any], config: Mapping[str, Any], **others: Any) -> Any:
    """A scheduler of this kind on the schedule in `config`, with `others` set.

    Never clipped at 1, as some kinds do where a configuration of another kind is silent: latents go
    beyond.
    """
    return kind.from_config(config, clip_sample=False, **others)


def sampling_scheduler(kind: type[Any], config: Mapping[str, Any], steps: int) -> Any:
    """A scheduler of this kind that samples in so many steps, from near the schedule's end.

    "Leading" steps are each as long as fits so often into the schedule, rounded down: where they
    are many, they begin far from pure noise (334 of 1000 at 667), or beyond it. Schedulers that go
    by noise levels take others then; DDIM cannot.

    Raises UserError where DDIM would begin too far from pure noise, or, on a schedule of "trailing"
    steps, end too far from none.
    """
    length = config["num_train_timesteps"]
    if kind is DDIMScheduler:
        stride = length // steps
        if stride * steps < NEAR * length:
            fewer, more = length // (stride + 1), length // stride
            raise UserError(
                f"ddim in {steps} steps covers {stride * steps} of the schedule's {length}, which "
                f"is not all noise; take {fewer} or {more} steps, or another scheduler."
            )
        return rescheduled(kind, config, **({"steps_offset": 0} if steps == length else {}))
    spread = "linspace" if steps < length else "trailing"  # neither repeats a step
    many = {"timestep_spacing": spread} if steps > length // 20 else {}
    return rescheduled(kind, config, **many)


def training_scheduler(pipeline: StableDiffusionPipeline) -> DDPMScheduler:
    """The pipeline's own noise schedule and prediction type, for adding noise."""
    scheduler: DDPMScheduler = rescheduled(DDPMScheduler, pipeline.scheduler.config)
    return scheduler


def end_in_noise(pipeline: StableDiffusionPipeline) -> None:
    """Rescale the pipeline's schedule to a terminal signal of zero (Lin et al. 2023), sampling
    from its very end.

    Raises UserError unless the base predicts v: epsilon says nothing of an image in pure noise.
    """
    config = pipeline.scheduler.config
    if config.prediction_type != "v_prediction":
        raise UserError(
            f"zero_terminal_snr needs a base of v-prediction, and this one predicts "
            f"{config.prediction_type}; leave it false."
        )
    pipeline.scheduler = rescheduled(
        DDIMScheduler, config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
