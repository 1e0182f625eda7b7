"""After a crash: complete the log by appending, so that analysis needs no special case.

Pure: from what the log says and what EC2 lists with our tags follow the events that are missing.
Every row that was launched ends with exactly one outcome.
"""

from collections.abc import Iterable, Iterator

from msgspec import UNSET, UnsetType

from spotlib.ec2.methods.registry import METHODS
from spotlib.ec2.resource import Ours
from spotlib.model import Kind, Outcome
from spotlib.record.events import IntentEvent, Lacking, OutcomeEvent, RequestedEvent
from spotlib.record.replay import RecordedBatch, RecordedRequest, RecordedRun
from spotlib.track import reached


def missing_events(
    record: RecordedBatch, listed: Iterable[Ours]
) -> Iterator[RequestedEvent | OutcomeEvent]:
    """Yield the ``requested`` and ``outcome`` events that the dead writer did not get to write.

    A row that is not in the log is known by its tags.  It was sent after its intent and never
    polled, so it is censored there.  An intent without any row, logged or listed, was not executed
    as far as anybody can tell, and gets nothing.
    """
    requests = list(record.requests.values())
    for run, ids in _unanswered(record, listed):
        yield _requested(run.intent, ids)
        requests += [RecordedRequest(each, run, run.intent.at_s) for each in ids]
    for request in requests:
        if request.outcome is None:
            yield _outcome(request)


def _unanswered(
    record: RecordedBatch, listed: Iterable[Ours]
) -> Iterator[tuple[RecordedRun, list[str]]]:
    """The runs whose answer is not in the log, with the rows that EC2 lists for them."""
    found: dict[tuple[int | None, int | None], list[str]] = {}
    for each in listed:
        found.setdefault((each.round, each.plan), []).append(each.thing_id)
    for key, ids in found.items():
        run = record.runs.get(key)  # type: ignore[arg-type]  # a tag of ours may be damaged
        if run is None or run.requested is not None or run.refused is not None:
            continue
        method = METHODS.get(run.intent.method)  # of a newer spotlib: its rows are not known here
        if method is None or not (things := method.row.of(ids)):
            continue
        yield run, [row for each in things for row in method.row.rows(each, run.intent.n)]


def _requested(intent: IntentEvent, ids: list[str]) -> RequestedEvent:
    return RequestedEvent(
        round=intent.round,
        plan=intent.plan,
        asked_s=intent.at_s,
        answered_s=None,
        at=intent.at,
        attempts=(),
        request_ids=tuple(ids),
        server_date=None,
        recovered=True,
        lacking=_lacking(intent.n - len(ids)),
    )


def _lacking(count: int) -> Lacking | UnsetType:
    """What did not come with an answer that was lost: nobody knows why."""
    if count <= 0:
        return UNSET
    message = "the answer was lost, and with it why these did not come"
    return Lacking(count=count, code=None, message=message, kind=Kind.UNKNOWN, advice="")


def _outcome(request: RecordedRequest) -> OutcomeEvent:
    intent, last = request.run.intent, request.stages[-1] if request.stages else None
    return OutcomeEvent(
        round=intent.round,
        plan=intent.plan,
        request_id=request.request_id,
        outcome=reached(request.run.wanted) if request.reached_wanted else Outcome.ABANDONED,
        status_code=last.status_code if last else None,
        status_message=None,
        instance_id=request.instance_id,
        instance_state=None,
        instance_reason=None,
        watched_s=request.watched_s,
        recovered=True,
    )
