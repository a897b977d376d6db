"""The one thread that owns the model: takes jobs from any event loop, serves them, never dies of one."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import torch

from sparring.agents.engines.transformers.batch import Batch
from sparring.agents.engines.transformers.rows import Job
from sparring.errors import EngineError

log = logging.getLogger(__name__)


class TurnLock:
    """A lock that is handed over: who releases and asks again queues behind who was waiting.

    With a plain lock the worker, which takes it for every pass, would keep a trainer out for ever.
    """

    def __init__(self) -> None:
        self._entry, self._held = threading.Lock(), threading.Lock()

    def __enter__(self) -> TurnLock:
        with self._entry:
            self._held.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.release()


class Worker(threading.Thread):
    """Serves jobs until closed. `prepare` turns a request into token ids, in this thread."""

    def __init__(self, batch: Batch, prepare: Callable[[Job, Batch], None], lock: TurnLock) -> None:
        super().__init__(name="sparring-transformers", daemon=True)
        self.batch = batch
        self._prepare, self._lock = prepare, lock
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._closing = self._ended = False

    def submit(self, job: Job) -> None:
        self._inbox.put(job)
        if self._ended:  # too late for the thread to see it
            job.fail(EngineError("the engine was closed"))

    def close(self) -> None:
        """Fail what is left and end the thread."""
        self._inbox.put(None)
        self.join()

    def run(self) -> None:
        with torch.inference_mode():
            while not self._closing:
                self._receive()
                try:
                    with self._lock:
                        self.batch.admit(self._waiting)
                        self.batch.step()
                except Exception as error:  # the rows in flight are lost, the engine is not
                    log.exception("the embedded engine lost a batch")
                    self._lose(error)
        self._ended = True
        for job in self._left():
            job.fail(EngineError("the engine was closed"))
        self._lose(EngineError("the engine was closed"))

    def _receive(self) -> None:
        """Take what has arrived; block only while there is nothing to do."""
        block = not self.batch.rows and not self._waiting
        with suppress(queue.Empty):
            while not self._closing:
                job = self._inbox.get(block=block)
                block = False
                if job is None:
                    self._closing = True
                elif not job.future.done():
                    self._accept(job)

    def _accept(self, job: Job) -> None:
        try:
            self._prepare(job, self.batch)
        except Exception as error:
            job.fail(error)
        else:
            self._waiting.append(job)

    def _left(self) -> list[Job]:
        jobs = list(self._waiting)
        with suppress(queue.Empty):
            while True:
                if (job := self._inbox.get(block=False)) is not None:
                    jobs.append(job)
        return jobs

    def _lose(self, error: Exception) -> None:
        for row in self.batch.rows:
            row.job.fail(error)
        self.batch.rows.clear()
