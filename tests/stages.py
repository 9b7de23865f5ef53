"""Where a runner would cut a pipeline into stages, and what crosses the cuts: that is written out and read again.

Beam's own fusion is asked, which keeps the rules that Dataflow's keeps: steps of one environment (image and resource
hints) that follow one another are one stage; a GroupByKey, a side input, or another environment ends it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import translations
from apache_beam.runners.worker import bundle_processor


@dataclasses.dataclass(frozen=True)
class Stage:
    """A fused stage.

    Attributes:
      steps: Full names of its steps.
      accelerator: What it asks for, "" for none.
      leaving: What it writes out for others: the steps' names, and after a colon which of their outputs.
    """

    steps: frozenset[str]
    accelerator: str
    leaving: frozenset[str]


def fused(pipeline: beam_runner_api_pb2.Pipeline) -> list[Stage]:
    """Cuts a pipeline."""
    context, stages = translations.create_and_optimize_stages(
        pipeline,
        phases=[
            translations.annotate_downstream_side_inputs,
            translations.annotate_stateful_dofns_as_roots,
            translations.fix_side_input_pcoll_coders,
            translations.pack_combiners,
            translations.lift_combiners,
            translations.expand_sdf,
            translations.fix_flatten_coders,
            translations.sink_flattens,
            translations.greedily_fuse,
            translations.sort_stages,
        ],
        known_runner_urns=frozenset([common_urns.primitives.FLATTEN.urn, common_urns.primitives.GROUP_BY_KEY.urn]),
        use_state_iterables=False,
    )
    accelerator = common_urns.resource_hints.ACCELERATOR.urn
    found = []
    for stage in stages:
        made = {
            collection: f"{step.unique_name}:{tag}"
            for step in stage.transforms
            for tag, collection in step.outputs.items()
        }
        leaving = {
            made[collection]
            for step in stage.transforms
            if step.spec.urn == bundle_processor.DATA_OUTPUT_URN
            for collection in step.inputs.values()
        }
        environment = context.components.environments[stage.environment] if stage.environment else None
        hints: Any = environment.resource_hints if environment else {}
        steps = frozenset(step.unique_name for step in stage.transforms)
        found.append(Stage(steps, hints[accelerator].decode() if accelerator in hints else "", frozenset(leaving)))
    return found
