"""Groups of workers that stay: what a command has to do is handed to processes that are already there.

A group is one run of Ray Train, which starts its workers, places them, watches them, and starts them anew where one is
lost. It lasts as long as there is work of its shape: see docs/decisions/0021.
"""

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from components.errors import UserError
from infra import ending
from infra.cluster import free_resources, resources
from infra.errors import Interrupted, OutsideError, disk_fault
from pipelines.workers.actors import start_here
from pipelines.workers.loop import work_through
from pipelines.workers.payload import no_cuda
from pipelines.workers.ray_tasks import result_of
from pipelines.workers.shape import Shape
from pipelines.workers.work_queue import Work, WorkQueue, loss_in

IDLE_S = 10.0  # then a group gives its places back: another job may wait for them
POLL_S = 0.5
CLOSE_S = 60.0  # for workers without work to end; they need less than one, unless the machine is very busy
BACKEND, GPU_BACKEND = "gloo", "cpu:gloo,cuda:nccl"  # of torch.distributed
CALL_RETRIES = 3  # of what a single worker does


class Lost(OutsideError):
    """A worker was lost once more than is tried again."""

    def __init__(self) -> None:
        super().__init__(
            "a worker was lost (killed, out of memory, or its machine went away): the same command goes on"
        )


class _Told(ray.train.UserCallback):
    """Tells the queue what went wrong, from Ray Train's own process."""

    def __init__(self, queue: WorkQueue) -> None:
        self.queue = queue

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Some workers, or all of them, raised an exception or are gone."""
        self.queue.failed(worker_exceptions)


class _Unannounced(FixedScalingPolicy):
    """So many workers, of which no autoscaler is told: that costs an actor, and a private instance has none."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is requested."""

    def _maybe_send_resource_request(self) -> None:
        pass


class _WorkerGroup(WorkerGroup):
    """Ray Train's, which lets go of its places where its workers do not start: Ray Train keeps them to the end."""

    def _start(self) -> None:
        try:
            super()._start()  # type: ignore[no-untyped-call]  # Ray gives it no types
        except Exception:  # whatever it is: it is raised again
            if self.has_started():
                self.shutdown()  # type: ignore[no-untyped-call]  # Ray gives it no types
            raise


class _Controller(TrainController):
    """Ray Train's, with groups that let go."""

    worker_group_cls = _WorkerGroup


class _Trainer(TorchTrainer):
    """Ray Train without what a group of workers has no use for, of which each costs a process.

    What removes the workers' places where Ray Train's controller dies asks the dashboard; a private instance has none,
    and ends as a whole. Until the dashboard has not answered, a run does not end either: 12 s.
    """

    def __init__(self, private: bool, **settings: Any) -> None:
        self._private = private
        self._unused = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if private else set())
        self.controller: Any = None
        super().__init__(**settings)

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """As Ray Train's own, which keeps the controller to itself: here `end` can end it from another thread."""
        if self._private:
            settings["scaling_policy"] = _Unannounced(settings["scaling_policy"].scaling_config)
        known = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0", **get_env_vars_to_propagate()}
        self.controller = start_here(ray.remote(_Controller), {"runtime_env": {"env_vars": known}}, **settings)
        ray.get(self.controller.run.remote())
        return ray.get(self.controller.get_result.remote())

    def end(self) -> None:
        """End the controller, and with it the workers, at once."""
        if self.controller is not None:
            ray.kill(self.controller)

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees Ray's older trainer, which has no such method; at run time it is the one of Ray Train V2.
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in made if type(each).__name__ not in self._unused]


class Group:
    """Workers of one shape, and their queue."""

    def __init__(self, shape: Shape, folder: Path, private: bool) -> None:
        """``folder``: where Ray Train may write; ``private``: whether Ray is this command's own, to which it must be
        connected."""
        self.shape, self.folder, self.private = shape, folder, private
        self.name = f"workers-{uuid.uuid4().hex[:12]}"
        self.queue = WorkQueue.open()
        self.free: set[int] = set()  # ranks of the workers that have nothing to do, as `Groups` knows them
        self.idle_since = 0.0
        self._over = threading.Event()
        self._starting = threading.Lock()
        self._error: Exception | None = None
        self._training: _Trainer | None = None
        self._start()

    def perform(self, work: Work) -> Any:
        """Have work done, by several threads at a time; returns the result of its worker, or of the first one.

        Raises the error of the loudest worker: what it has to say to the user, then a fault of its own. Lost where a
        worker is gone once more than is tried again; Interrupted, when the end of the command has begun, where nobody
        had begun with it, or where it can be broken off, as all that is not done everywhere.
        """
        ending.check()
        place, tries = self.queue.put(work), work.retries
        while (outcome := self.queue.outcome(place, POLL_S)) is None:
            with self._starting:
                if self._over.is_set():
                    self._error_of_start(tries)
                    tries -= 1
                    self._start()
            if ending.begun():
                if work.rank is not None:
                    raise Interrupted
                self.queue.withdraw(place)
        if outcome.withdrawn:
            raise Interrupted
        if outcome.errors:
            raise _loudest(outcome.errors)
        return outcome.value

    @property
    def idle(self) -> bool:
        """Whether none of its workers has anything to do."""
        return len(self.free) == self.shape.workers

    @property
    def lasts(self) -> bool:
        """Whether Ray Train still cares for the workers."""
        return not self._over.is_set()

    def close(self) -> None:
        """Let the workers end. They need a moment, until when the group `lasts`."""
        with suppress(ray.exceptions.RayError):
            self.queue.close()

    def end(self) -> None:
        """End the workers at once, whatever they do."""
        if self._training is not None:
            with suppress(ray.exceptions.RayError):
                self._training.end()

    def _start(self) -> None:
        self._error = None
        self._over.clear()
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._training = self._trainer()
            self._training.fit()
        except Exception as error:  # whatever it is: `perform` raises it, in the thread that waits for the work
            self._error = error
        finally:
            self.end()  # its process would stay until the command ends
            shutil.rmtree(self.folder / self.name, ignore_errors=True)  # empty but for a mark of Ray Train's
            self._over.set()

    def _trainer(self) -> _Trainer:
        shape = self.shape
        backend = GPU_BACKEND if shape.gpus and shape.workers > 1 else BACKEND  # one has nobody to talk to
        return _Trainer(
            self.private,
            train_loop_per_worker=work_through,
            train_loop_config={"queue": self.queue},
            torch_config=TorchConfig(backend=backend),
            scaling_config=ray.train.ScalingConfig(
                num_workers=shape.workers,
                use_gpu=shape.gpus > 0,
                resources_per_worker={"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {}),
            ),
            run_config=ray.train.RunConfig(
                name=self.name,
                storage_path=str(self.folder),
                failure_config=ray.train.FailureConfig(max_failures=-1),  # the queue counts them, by work
                # The hint names Ray Tune's callbacks; Ray Train V2 asks for a UserCallback, and refuses others.
                callbacks=[_Told(self.queue)],  # type: ignore[list-item]
            ),
        )

    def _error_of_start(self, tries: int) -> None:
        """Raise why Ray Train has given up; return where a worker was lost while its group started, which Ray Train
        does not mend, and there are ``tries`` left."""
        error = self._error
        cause = getattr(error, "controller_failure", error)
        if "have NCCL built in" in str(error):
            raise no_cuda() from error
        if error is None or not _is_loss(cause):
            raise error or OutsideError("the workers ended before their work: the same command goes on")
        ending.check()
        if not tries:
            raise Lost from error


def _loudest(errors: tuple[Exception, ...]) -> Exception:
    """Where one worker ends, the others lose their connection to it: what they say is noise."""
    cause = min(errors, key=_loudness)
    if fault := disk_fault(cause):
        return OutsideError(fault)
    return Lost() if _is_loss(cause) else cause


def _loudness(error: Exception) -> int:
    said = isinstance(error, UserError | OutsideError) or disk_fault(error) is not None
    return 0 if said else 1 if _is_loss(error) else 2


def _is_loss(error: Exception | None) -> bool:
    return error is not None and isinstance(loss_in(error), ray.exceptions.RayActorError)


class Groups:
    """The groups of one command. Methods may be called from several threads."""

    def __init__(self, folder: Path, private: bool) -> None:
        """As of `Group`."""
        self.folder, self.private = folder, private
        self._made: list[Group] = []
        self._there: list[Group] = []  # those that may be given work
        self._busy = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="idle-workers", daemon=True).start()

    def everywhere(self, shape: Shape, function: Callable[[Any], None], argument: Any, retries: int) -> None:
        """Call a function on every worker of a group of that shape. Raises as `Group.perform` does."""
        group = self._take(shape) or self._make(shape)
        with self._using(group, set(range(shape.workers))):
            group.perform(Work(function, argument, None, retries))

    def once(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """The result of a function that one process calls, on one core, and with a GPU where there are any: a worker of
        a group that has nothing to do, else one that Ray starts. Raises as `Group.perform` does."""
        gpus = 1 if resources().get("GPU") else 0
        while True:
            if taken := self._take_one():
                group, rank = taken
                with self._using(group, {rank}):
                    return group.perform(Work(function, argument, rank, CALL_RETRIES))
            if not self._busy or _is_free({"CPU": 1, "GPU": gpus}):
                return result_of(_call.options(num_gpus=gpus).remote(function, argument))
            ending.check()
            with self._changed:
                self._changed.wait(POLL_S)

    def close(self) -> None:
        """End all workers: as soon as they have done what they do, or at once where the end of the command has begun.

        Returns when they have ended: a thread that still waits for Ray while the command leaves it would have Ray end
        the process, with an exit code of its own.
        """
        self._closed.set()
        until = time.monotonic() + CLOSE_S
        with self._changed:
            idle = [group for group in self._there if group.idle]
        at_once = idle if self.private else []  # what is left of them ends with Ray, in a moment
        self._dismiss()
        for group in self._made:
            while group.lasts and time.monotonic() < until + CLOSE_S:
                if group in at_once or ending.begun() or time.monotonic() > until:
                    group.end()
                time.sleep(POLL_S / 10)

    @contextmanager
    def _using(self, group: Group, ranks: set[int]) -> Iterator[None]:
        """Work with some workers of a group, which afterwards wait for other work. The group was started anew where one
        of them failed."""
        stays = False
        try:
            yield
            stays = True
        except Exception:  # any error of the work is raised again; it ended the workers, not their group
            stays = group.lasts
            raise
        finally:
            with self._changed:
                self._busy -= 1
                group.idle_since = time.monotonic()
                group.free |= ranks
                if not stays and group in self._there:
                    self._there.remove(group)
                self._changed.notify_all()
            if not stays:
                group.close()

    def _take(self, shape: Shape) -> Group | None:
        """All workers of a group that has nothing to do, of that shape."""
        with self._changed:
            fitting = [group for group in self._there if group.lasts and group.idle and group.shape == shape]
            if not fitting:
                return None
            fitting[-1].free.clear()
            self._busy += 1
            return fitting[-1]

    def _take_one(self) -> tuple[Group, int] | None:
        """A worker that has nothing to do, by its rank: of a group of which others work alone, too, if there is one."""
        with self._changed:
            fitting = [group for group in self._there if group.lasts and group.free]
            if not fitting:
                return None
            group = min(fitting, key=lambda group: (group.idle, len(group.free)))
            rank = min(group.free)
            group.free.remove(rank)
            self._busy += 1
            return group, rank

    def _make(self, shape: Shape) -> Group:
        """A new group, for which others that have nothing to do make room."""
        if not _is_free(shape.needs):
            self._dismiss()
        group = Group(shape, self.folder, self.private)
        with self._changed:
            self._made.append(group)
            self._there.append(group)
            self._busy += 1
        return group

    def _dismiss(self, seconds: float = 0.0) -> None:
        """Have groups end that have had nothing to do for so long."""
        until = time.monotonic() - seconds
        with self._changed:
            leaving = [group for group in self._there if group.idle and group.idle_since <= until]
            self._there = [group for group in self._there if group not in leaving]
        for group in leaving:
            group.close()

    def _watch(self) -> None:
        """Dismiss who has had nothing to do for long."""
        while not self._closed.wait(POLL_S):
            self._dismiss(IDLE_S)


def _is_free(needs: Mapping[str, float]) -> bool:
    free = free_resources()
    return all(free.get(kind, 0.0) >= count for kind, count in needs.items())


@ray.remote(num_cpus=1, max_retries=CALL_RETRIES)
def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)
