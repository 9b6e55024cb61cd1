"""The training loop: batches in, turns, and what is due after them."""

import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor

from agehpc.cluster.collectives import mean_over_ranks, together
from agehpc.cluster.groups import Ranks
from agehpc.cluster.signals import Reason, StopFlag, agree
from agehpc.config.plan import Plan
from agehpc.config.schema import Config
from agehpc.data.keyed import philox
from agehpc.data.loader import Batch, train_batches
from agehpc.data.pixels import to_float
from agehpc.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RESTART, DivergedError
from agehpc.models.ema import Ema, decay
from agehpc.observe.console import Console, Status
from agehpc.observe.throughput import Meter
from agehpc.systems import build_system
from agehpc.systems.turns import Micro
from agehpc.train import checkpoint as checkpointing
from agehpc.train.engines import Engine
from agehpc.train.progress import Progress, is_due
from agehpc.train.recorder import Recorder
from agehpc.train.snapshot import Snapshot
from agehpc.train.step import run_turns
from agehpc_kernels.norm import global_moments

EXIT_CODES: dict[Reason, int] = {
    "restart": EXIT_RESTART,
    "interrupt": EXIT_INTERRUPTED,
}


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
        self.system = build_system(config, _moments)
        torch.manual_seed(config.run.seed)  # weights are equal on all ranks
        modules = self.system.build()
        if resume_from is not None:
            self.progress = checkpointing.restore_modules(resume_from, config, modules)
        self.parameters = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
        self.engines = {
            name: Engine(
                name, module, config.players[name], plan, config.train.precision, ranks.device
            )
            for name, module in modules.items()
        }
        self.emas = {
            name: Ema(engine.local_weights())
            for name, engine in self.engines.items()
            if config.players[name].ema.half_life_kimg > 0
        }
        if resume_from is not None:
            checkpointing.restore_engines(resume_from, self.engines, self.emas, self.progress.step)
        self.speaks = ranks.env.rank == 0
        self.snapshot: Snapshot | None = None
        self.recorder: Recorder | None = None
        together(self._open_rank0)
        self.meter = Meter()
        self.started = time.monotonic()
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def _open_rank0(self) -> None:
        self.snapshot = Snapshot(self.config, self.plan, self.ranks.device)
        self.recorder = Recorder(self.run, self.config, self.progress.step)

    def fit(self) -> int:
        """Train to the end, or until the ranks agree to stop; return the exit code."""
        total = self.plan.samples
        batches = self._batches()
        self.started = time.monotonic()
        try:
            with StopFlag() as flag:
                while self.progress.samples_seen < total:
                    before = self.progress
                    self._step([self._next(batches) for _ in range(self.plan.accumulation)])
                    if self._seconds_left() <= 0:
                        flag.request("minutes")
                    reason = agree(flag)
                    done = self.progress.samples_seen >= total or reason == "minutes"
                    self._do_what_is_due(before, done=done, stop=done or reason is not None)
                    if reason is not None and not done:
                        return EXIT_CODES[reason]
                    if done:
                        return EXIT_DONE
        finally:
            batches.close()  # ends its workers
            if self.recorder is not None:
                self.recorder.close()
        return EXIT_DONE

    def _step(self, micros: list[Micro]) -> None:
        statistics = run_turns(
            self.system, self.engines, micros, shared_forward=self.plan.shared_forward
        )
        self.progress = self.progress.after(self.plan.global_batch)
        for name, ema in self.emas.items():
            settings = self.config.players[name].ema
            keep = decay(
                self.plan.global_batch,
                self.progress.samples_seen,
                settings.half_life_kimg,
                settings.ramp_up,
            )
            ema.update(self.engines[name].local_weights(), keep)
        for name, value in statistics.items():
            total, count = self.sums.get(name, (torch.zeros_like(value), 0))
            self.sums[name] = (total + value, count + 1)
        self.meter.add(self.plan.global_batch)
        self.console.progress(self.progress.kimg, self.config.train.kimg)

    def _do_what_is_due(self, before: Progress, *, done: bool, stop: bool) -> None:
        config, now = self.config, self.progress
        saving = stop or is_due(config.train.save_every_kimg, before, now)
        if saving or is_due(config.observe.tick_kimg, before, now):
            # Before every checkpoint too, so that no sum of losses needs to be saved with it.
            self._tick()
        rendering = done or is_due(config.observe.samples_every_kimg, before, now)
        measuring = config.evaluate.samples > 0 and (
            done or is_due(config.evaluate.every_kimg, before, now)
        )
        if rendering or measuring:
            with self.meter.span("sample"):
                self._look(rendering=rendering, measuring=measuring)
        if saving:
            with self.meter.span("save"):
                self._save()

    def _tick(self) -> None:
        """Fetch the losses, stop if one is not finite, and write them down."""
        means = mean_over_ranks({n: float(total) / c for n, (total, c) in self.sums.items()})
        self.sums = {}
        rates = self.meter.tick()
        wrong = sorted(name for name, value in means.items() if not math.isfinite(value))
        if wrong:
            error = DivergedError(
                f"{', '.join(wrong)} no longer finite at step {self.progress.step}; the newest "
                f"checkpoint in {self.run} is from before: lower --players.*.optim.lr, or set "
                "--players.*.clip"
            )
            error.silent = not self.speaks
            raise error

        def write() -> None:
            assert self.recorder is not None
            self.recorder.metrics(self.progress, means, rates, self.ranks.device)

        together(write)  # on a full disk every rank ends, and says so once
        self.console.tick(
            Status(
                kimg=self.progress.kimg,
                total_kimg=self.config.train.kimg,
                step=self.progress.step,
                rates=rates,
                eta_s=rates.eta_s(
                    self.plan.samples - self.progress.samples_seen, self._seconds_left()
                ),
                values={_SHORT.get(name, name): value for name, value in means.items()},
            )
        )

    def _look(self, *, rendering: bool, measuring: bool) -> None:
        """Render and measure the averaged model on rank 0; the others wait."""
        engine = self.engines["autoencoder"]
        weights = checkpointing.averaged_weights(engine, self.emas.get("autoencoder"))

        def look() -> None:
            assert self.snapshot is not None
            assert self.recorder is not None
            self.snapshot.refresh(weights)
            if rendering:
                paths = self.snapshot.render(self.recorder.sample_stem(self.progress))
                self.recorder.pictures(self.progress, paths)
            if measuring:
                value, count = self.snapshot.reconstruction_psnr()
                self.recorder.evaluation(self.progress, value, count, self.snapshot.split)
                self.console.say(
                    f"{self.snapshot.split}: reconstruction {value:.2f} dB PSNR over {count} "
                    "samples"
                )

        together(look)

    def _save(self) -> None:
        def sync() -> None:
            assert self.recorder is not None
            self.recorder.sync()

        together(sync)
        path = checkpointing.save(
            self.run, self.config, self.progress, self.engines, self.emas, self.snapshot
        )
        self.console.say(f"saved {path}")

    def _batches(self) -> Generator[Batch, None, None]:
        env = self.ranks.env
        return train_batches(
            self.config.data,
            self.config.run.seed,
            start=self.progress.samples_seen,
            global_batch=self.plan.global_batch,
            micro_batch=self.plan.micro_batch,
            accumulation=self.plan.accumulation,
            rank=env.rank,
            world_size=env.world_size,
        )

    def _next(self, batches: Iterator[Batch]) -> Micro:
        with self.meter.waiting():
            batch = next(batches)
        seed, device = self.config.run.seed, self.ranks.device
        z_BZ, noise_BZ = self.system.draw([philox(seed, "prior", int(p)) for p in batch.positions])
        return Micro(
            x=to_float(batch.pixels.to(device, non_blocking=True)),
            z=z_BZ.to(device, non_blocking=True),
            samples_seen=self.progress.samples_seen,
            step=self.progress.step,
            noise=None if noise_BZ is None else noise_BZ.to(device, non_blocking=True),
        )

    def _seconds_left(self) -> float:
        """Seconds until this start has trained as long as it may."""
        limit = self.config.train.max_minutes
        return math.inf if limit is None else 60 * limit - (time.monotonic() - self.started)


def _moments(z_BZ: Tensor) -> tuple[Tensor, Tensor]:
    m_Z, v_Z, _ = global_moments(z_BZ)
    return m_Z, v_Z


_SHORT = {
    "reconstruction": "rec",
    "adversarial": "adv",
    "latent_adversarial": "lat",
    "latent_cycle": "cyc",
    "discriminator": "D",
    "latent_discriminator": "C",
    "moment": "mom",
    "logit_real": "D(x)",
    "logit_generated": "D(G(z))",
    "features": "feat",
    "squared": "mse",
    "reconstruction_fake": "D(G(E(x)))",
}
