"""Which scan of a cohort is next, and what to make of a worker that was lost."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from osteomet.data.manifest import Case
from osteomet.inference.cohort_scan import ScanOutcome, ScanTask, State, Step, failed
from osteomet.inference.engines import Lost

ATTEMPTS = 3
"""Workers that one step of a scan may cost: memory may have run out because of its neighbours."""


class Agenda:
    """Hands out the steps of all scans, patient by patient, and is told what came of each.

    A scan whose worker is lost is tried again, last; after ``ATTEMPTS`` it has failed. When every
    scan of a patient with several is predicted or has failed, those that were predicted are
    joined. Only the patients under way are held, beside the cohort itself.
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        patients: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            patients[case.patient_id].append(case)
        self._scans = {patient: tuple(scans) for patient, scans in patients.items()}
        self._fresh = self._predictions()
        self._ready: deque[ScanTask] = deque()
        self._again: deque[ScanTask] = deque()
        self._lost: dict[ScanTask, int] = {}
        self._predicted: dict[str, dict[Case, State]] = defaultdict(dict)

    def next_task(self) -> ScanTask | None:
        """Return what to do next; None where all the rest waits for what is under way."""
        if self._ready:
            return self._ready.popleft()
        fresh = next(self._fresh, None)
        if fresh is None and self._again:
            return self._again.popleft()
        return fresh

    def settle(self, task: ScanTask, answer: ScanOutcome | Lost) -> ScanOutcome | None:
        """Take note of an answer; return the scan's outcome if it is final."""
        attempts = self._lost.pop(task, 0) + 1
        if isinstance(answer, Lost):
            if attempts < ATTEMPTS:
                self._lost[task] = attempts
                self._again.append(task)
                return None
            answer = failed(
                task.case,
                f"scan {task.case.scan_id!r}: the worker {answer.reason}, {attempts} times; most "
                "likely memory ran out or the file crashes a decoder: run again with fewer "
                "workers, which keeps what is finished",
            )
        outcome = replace(answer, attempts=attempts)
        if task.step is Step.PREDICT and len(task.scans) > 1:
            self._note_prediction(task, outcome.state)
        return None if outcome.state is State.WAITING else outcome

    def _predictions(self) -> Iterator[ScanTask]:
        for scans in self._scans.values():
            for case in scans:
                yield ScanTask(case, scans)

    def _note_prediction(self, task: ScanTask, state: State) -> None:
        patient = task.case.patient_id
        states = self._predicted[patient]
        states[task.case] = state
        if len(states) < len(task.scans):
            return
        del self._predicted[patient]
        there = tuple(case for case in task.scans if states[case] is not State.FAILED)
        self._ready.extend(
            ScanTask(case, there, Step.JOIN) for case in there if states[case] is State.WAITING
        )
