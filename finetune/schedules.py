"""Noise schedules: a base's own, for training and for sampling by other schedulers."""

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline

from core.errors import UserError


def rescheduled(kind: type[Any], config: Mapping[str, Any], **others: Any) -> Any:
    """A scheduler of this kind on the schedule in `config`, with `others` set.

    Never clipped at 1, as some kinds do where a configuration of another kind is silent: latents go
    beyond.
    """
    return kind.from_config(config, clip_sample=False, **others)


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
