"""The training loop: batches in, turns, and what is due after them."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from agehpc import best as bests
from agehpc.best import Best
from agehpc.between import BETWEEN
from agehpc.cluster.collectives import agreed, mean_over_ranks, together
from agehpc.cluster.groups import Ranks
from agehpc.cluster.signals import EXIT_CODES, Reason, StopFlag, agree
from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.data.quarantine import Fault, Quarantine
from agehpc.errors import EXIT_DONE, EXIT_RESTART, AgehpcError, DataError
from agehpc.models.ema import Ema, decay
from agehpc.models.kernels import choose
from agehpc.observe.console import Console
from agehpc.observe.throughput import Meter
from agehpc.systems import build_system
from agehpc.systems.base import Micro
from agehpc.systems.step import run_turns
from agehpc.train import checkpoint as checkpointing
from agehpc.train import rollback
from agehpc.train.engines import Engine, process_groups
from agehpc.train.figures import Figures
from agehpc.train.guard import GRADIENT, Trouble, collapsed, judge, watch
from agehpc.train.health import Health
from agehpc.train.intake import Intake
from agehpc.train.look import check_best, look
from agehpc.train.progress import Progress, is_due
from agehpc.train.recorder import Recorder, known_faults
from agehpc.train.scoring import Scorer
from agehpc.train.snapshot import Snapshot
from agehpc.train.status import status_of
from agehpc.train.writer import Writer


class Trainer:
    """A run in training: players, engines, averages and counters. Every method is collective.

    Args:
        config: with the data's identity filled in.
        plan: batch arithmetic for this world size.
        ranks: this process's place and device.
        run: the run directory, prepared by rank 0.
        resume_from: the checkpoint to go on from, or None.
        console: speaks on rank 0.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        ranks: Ranks,
        run: Path,
        resume_from: Path | None,
        console: Console,
    ) -> None:
        self.config, self.plan, self.ranks, self.run = config, plan, ranks, run
        self.console = console
        self.progress = Progress()
        self.system = build_system(config, BETWEEN)
        torch.manual_seed(config.run.seed)  # weights are equal on all ranks
        modules = self.system.build()
        console.say(f"norms by {self._choose_kernels(modules)}")
        self.quiet = 0
        if resume_from is not None:
            given = resume_from, config, self.system, modules
            restored = agreed(lambda: checkpointing.restore_modules(*given))
            self.progress = together(lambda: rollback.resume(run, restored))
            # What was gone back to has been found to be good.
            self.quiet = restored.step + (self.progress.rollbacks > restored.rollbacks)
        self.parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
        self.engines = {
            name: Engine(
                name,
                module,
                config.players[name],
                plan,
                config.train.precision,
                ranks.device,
                self.system.weight_bounds.get(name),
            )
            for name, module in modules.items()
        }
        self._set_rates()
        self.emas = self._fresh_averages()
        if resume_from is not None:
            checkpointing.restore_engines(
                resume_from, self.system, self.engines, self.emas, self.progress.step
            )
        self.speaks = ranks.env.rank == 0
        self.snapshot: Snapshot | None = None
        self.recorder: Recorder | None = None
        self.quarantine = Quarantine(config.data, together(lambda: known_faults(run)))
        self.best = together(self._open_rank0)
        self.meter = Meter()
        groups = process_groups(self.engines.values())
        self.health = Health(config, ranks, run, groups, self.meter, console, self.progress)
        self.writer = Writer(run, config.train, ranks.env, console, self.health.beat)
        self.flag = StopFlag(run / "control" if self.speaks else None)
        self.scorer: Scorer | None = None
        if config.evaluate.metrics and config.evaluate.samples:
            own = None if self.snapshot is None else self.snapshot.model
            self.scorer = Scorer(config, ranks, own)
        self.intake = Intake(
            config,
            plan,
            ranks,
            self.system,
            self.quarantine,
            self.progress.samples_read,
            self.meter,
            self._record_faults,
        )
        self.started = time.monotonic()
        self.stopped = False
        self.figures = Figures()

    def _set_rates(self) -> None:
        for name, engine in self.engines.items():
            engine.set_rate(self.config.players[name].optim.lr * self.progress.lr_scale)

    def _fresh_averages(self) -> dict[str, Ema]:
        return {
            name: Ema(engine.local_weights())
            for name, engine in self.engines.items()
            if self.config.players[name].ema.half_life_kimg > 0
        }

    def _choose_kernels(self, modules: Mapping[str, nn.Module]) -> str:
        kernel, device = self.config.train.norm_kernel, self.ranks.device
        return agreed(lambda: choose(modules.values(), kernel, device))

    def _open_rank0(self) -> Best | None:
        self.recorder = Recorder(self.run, self.config, self.progress.step)
        try:
            self.snapshot = Snapshot(self.config, self.plan, self.ranks.device, self.quarantine)
        except DataError:
            self.recorder.quarantine(self.quarantine.take())
            raise
        check_best(self.config, self.snapshot)
        return bests.refresh(self.run, self.config.evaluate.best, self.recorder.evaluations())

    def fit(self) -> int:
        """Train to the end, or until the ranks agree to stop; return the exit code."""
        self.started = time.monotonic()
        try:
            with self.flag as flag:
                if self.progress.owed and (code := self._catch_up()) is not None:
                    return code
                while not self._finished():
                    before = self.progress
                    self._step(self.intake.step(before))
                    if self._seconds_left() <= 0:
                        flag.request("minutes")
                    reason = agree(flag)
                    done = self._finished() or reason == "minutes"
                    saving = done or reason is not None
                    if trouble := self._do_what_is_due(before, done=done, saving=saving):
                        self._go_back(trouble)
                        done = reason == "minutes"
                    if self.progress.owed:
                        return self._leave(agree(flag))
                    if reason == "save":
                        together(flag.obeyed)
                    if done:
                        return EXIT_DONE
                    if reason not in (None, "save"):
                        return self._leave(reason)
        finally:
            self.intake.close()
            if self.recorder is not None:
                self.recorder.close()
            self.writer.close()
        return EXIT_DONE

    def _step(self, batches: list[list[Micro]]) -> None:
        # Dropout draws from torch's own generator.
        purpose = f"dropout on rank {self.ranks.env.rank}"
        keyed = philox(self.config.run.seed, purpose, self.progress.step)
        torch.manual_seed(int(keyed.integers(2**63)))
        statistics = run_turns(
            self.system, self.engines, batches, shared_forward=self.plan.shared_forward
        )
        seen = self.plan.samples_per_step
        self.progress = self.progress.after(seen, self.plan.global_batch * self.plan.batches)
        for name, ema in self.emas.items():
            settings = self.config.players[name].ema
            given = self.progress.samples_seen, settings.half_life_kimg, settings.ramp_up
            keep = decay(seen, *given)
            ema.update(self.engines[name].local_weights(), keep)
        self.figures.add(self.progress.step, statistics)
        self.meter.add(seen)
        self.health.beat(self.progress)
        self.console.progress(self.progress.kimg, self.config.train.kimg)

    def _finished(self) -> bool:
        return self.progress.samples_seen >= self.plan.samples

    def _leave(self, reason: Reason | None) -> int:
        assert reason is not None
        together(self.flag.obeyed)
        self.stopped = True
        return EXIT_CODES[reason]

    def _do_what_is_due(self, before: Progress, *, done: bool, saving: bool) -> Trouble | None:
        config, now, stop = self.config, self.progress, saving
        saving = saving or is_due(config.train.save_every_kimg, before, now)
        # Before every checkpoint too, so that no sum of losses needs to be saved with it.
        ticking = saving or is_due(config.observe.tick_kimg, before, now)
        if ticking and (trouble := self._tick()):
            return trouble
        better, trouble = self._look_if_due(before, done=done)
        if trouble is not None:
            return trouble
        if better is not None or self.progress.owed:
            if not ticking and (trouble := self._tick()):
                return trouble
            self.best, saving = better or self.best, True
        if saving:
            with self.meter.span("save"):
                return self._save(wait=stop or self.progress.owed)
        return None

    def _look_if_due(self, before: Progress, *, done: bool) -> tuple[Best | None, Trouble | None]:
        """What is the best now, if it was not before, and what is wrong with the samples.

        A look that a stop cuts short is owed: the next start begins with it.
        """
        config, now = self.config, self.progress
        rendering = done or is_due(config.observe.samples_every_kimg, before, now)
        measuring = config.evaluate.samples > 0 and (
            done or is_due(config.evaluate.every_kimg, before, now)
        )
        if not (rendering or measuring):
            return None, None
        try:
            with self.meter.span("sample"):
                better, diversity = self._look(rendering=rendering, measuring=measuring)
        except AgehpcError as error:
            if error.exit_code != EXIT_RESTART:
                raise
            self.progress = replace(now, owed=True)
            return None, None
        self.progress = watch(now, diversity, config.train.guard)
        return better, collapsed(self.progress, diversity, config.train.guard)

    def _catch_up(self) -> int | None:
        """Do what the last start owes to the checkpoint; the exit code where this one is to stop.

        The checkpoint stays as it is: a start after this one does the same again.
        """
        now = self.progress
        before = replace(now, samples_seen=now.samples_seen - self.plan.samples_per_step)

        def forget() -> None:
            assert self.recorder is not None
            self.recorder.forget_evaluations(now.step)

        together(forget)
        self.progress = replace(now, owed=False)
        better, trouble = self._look_if_due(before, done=self._finished())
        if self.progress.owed:
            return self._leave(agree(self.flag))
        if trouble is not None:
            self._go_back(trouble)
        elif better is not None:
            self.best = better
            together(lambda: bests.write(self.run, better))
        return None

    def _tick(self) -> Trouble | None:
        """Fetch the losses, write them down, and return what is wrong with them."""
        own = self.figures.means()
        for name, engine in self.engines.items():
            own[GRADIENT + name] = float(engine.take_largest_norm())
        rates = self.meter.tick()
        means = mean_over_ranks(own | self.health.work(rates))
        slow = self.health.tick(self.progress, means)
        data = self.intake.tick(self.progress) | slow

        def write() -> None:
            assert self.recorder is not None
            self.recorder.metrics(self.progress, means, rates, data, self.ranks.device)

        together(write)  # on a full disk every rank ends, and says so once
        self.writer.settle(wait=False)
        left = self.plan.samples - self.progress.samples_seen
        eta_s = rates.eta_s(left, self._seconds_left())
        self.console.tick(status_of(self.progress, self.config.train.kimg, rates, eta_s, means))
        given = means, self.config.train.guard, self.progress.step
        trouble = judge(*given, lambda: self.figures.first_bad(self.ranks.env))
        self.figures.forget()
        if trouble is None:
            self.quiet = self.progress.step
        return trouble

    def _go_back(self, trouble: Trouble) -> None:
        """Take up the last good checkpoint with lower rates; DivergedError where that is not to be.

        The samples go on where they are.
        """
        guard = self.config.train.guard
        self.writer.settle(wait=True)

        def answer() -> tuple[Path, Progress, Best | None]:
            assert self.recorder is not None
            now, quiet = self.progress, self.quiet
            good, after = rollback.answer(self.run, trouble, now, guard, quiet)
            self.recorder.cut_back(after.step)
            rows = self.recorder.evaluations()
            return good, after, bests.refresh(self.run, self.config.evaluate.best, rows)

        good, self.progress, self.best = together(answer)
        checkpointing.restore_weights(good, self.engines)
        self.emas = self._fresh_averages()
        checkpointing.restore_engines(
            good, self.system, self.engines, self.emas, self.progress.step
        )
        self._set_rates()
        self.quiet = self.progress.step + 1
        self.figures.forget()
        for engine in self.engines.values():
            engine.take_largest_norm()
        self.console.say(
            f"{trouble.told}: back to {good}, learning rates x {self.progress.lr_scale:g} "
            f"(rollback {self.progress.rollbacks} of {guard.rollbacks})"
        )

    def _look(self, *, rendering: bool, measuring: bool) -> tuple[Best | None, float | None]:
        """Render and measure the averaged model on rank 0; the others wait.

        Returns its figure by which the best checkpoint is chosen, where that is the best so far,
        and the diversity of its samples, where the guard wants to know.
        """
        weights = checkpointing.model_weights(self.system, self.engines, self.emas)

        def refresh() -> None:
            assert self.snapshot is not None
            self.snapshot.refresh(weights)

        together(refresh)
        check = self.health.beating(self.flag.check)
        scores = self.scorer.score(check) if measuring and self.scorer is not None else []

        def looked() -> tuple[Best | None, float | None]:
            assert self.snapshot is not None
            assert self.recorder is not None
            parts = self.config, self.snapshot, self.recorder, self.console
            given = self.progress, self.best, scores, check
            return look(*parts, *given, rendering=rendering, measuring=measuring)

        return together(looked)

    def _save(self, *, wait: bool) -> Trouble | None:
        self.writer.settle(wait=True)

        def sync() -> None:
            assert self.recorder is not None
            self.recorder.sync()

        together(sync)
        trouble = checkpointing.save(
            self.run,
            self.config,
            self.progress,
            self.system,
            self.engines,
            self.emas,
            self.snapshot,
            self.best,
            self.quiet,
            self.writer,
        )
        self.writer.settle(wait=wait)
        return trouble

    def _record_faults(self, faults: list[Fault]) -> None:
        assert self.recorder is not None
        self.recorder.quarantine(faults)
        for fault in faults:
            self.console.say(f"another sample is read in the place of {fault}")

    def _seconds_left(self) -> float:
        limit = self.config.train.max_minutes
        return math.inf if limit is None else 60 * limit - (time.monotonic() - self.started)
