"""Pipelines that change nothing: normalising twice is the commonest way to ruin a policy."""

from typing import Any

from lerobot.processor import PolicyProcessorPipeline


def make_clrl_pre_post_processors(
    config: Any, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, Any]:
    """An empty pipeline before and after; the statistics stay in the bundle."""
    del config, dataset_stats
    return (
        PolicyProcessorPipeline(steps=[], name="policy_preprocessor"),
        PolicyProcessorPipeline(steps=[], name="policy_postprocessor"),
    )
