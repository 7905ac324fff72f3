"""What two jobs of a workflow have in common, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from voxelworks.protocol.credits import in_credits
from voxelworks.protocol.views import JobView
from voxelworks.server.rendering import STATE_WORDS, duration, worked_s
from voxelworks.server.results import ResultView
from voxelworks.server.subjects import NOTHING, describe_params


@dataclass(frozen=True)
class Row:
    """One thing of both jobs."""

    group: str
    label: str
    left: str
    right: str

    @property
    def is_same(self) -> bool:
        return self.left == self.right


def compare(
    left: JobView, right: JobView, left_result: ResultView | None, right_result: ResultView | None
) -> list[Row]:
    """Put the parameters, the course and the results of two jobs side by side, in the order of a job's page."""
    groups = {
        "Parameters": (_params(left), _params(right)),
        "Course": (_course(left), _course(right)),
        "Result": (_result(left_result), _result(right_result)),
    }
    return [
        Row(group, label, of_left.get(label, NOTHING), of_right.get(label, NOTHING))
        for group, (of_left, of_right) in groups.items()
        for label in dict.fromkeys([*of_left, *of_right])
    ]


def _params(job: JobView) -> Mapping[str, str]:
    return dict(_labelled_params(job))


def _labelled_params(job: JobView) -> Iterator[tuple[str, str]]:
    groups = describe_params(job.workflow, job.params)
    for group in groups:
        # Of one layer alone the page says `Layer`, of the first of several `Layer 1`.
        title = "" if group.title in (None, "Job") else f"{group.title.removesuffix(' 1')}: "
        for param in group.params:
            yield f"{title}{param.label.lower() if title else param.label}", param.value


def _course(job: JobView) -> Mapping[str, str]:
    worked = worked_s(job)
    found = {
        "State": STATE_WORDS[job.state], "Failure": job.message or job.publish_error or NOTHING,
        "Duration": NOTHING if worked is None else duration(worked), "Attempts": str(job.attempt),
        "Workflow version": str(job.version), "Owner": job.owner, "Priority": str(job.priority),
    }  # fmt: skip
    if job.charge_millicredits is not None:
        found["Credits"] = in_credits(job.charge_millicredits)
    return found


def _result(result: ResultView | None) -> Mapping[str, str]:
    return {} if result is None else dict(result.values)
