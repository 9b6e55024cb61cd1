import csv
import json
import statistics
import sys

import pytest
import results_csv
import throughput

from agehpc.config.plan import make_plan
from agehpc.data.check import check
from agehpc.data.shards import read_manifest
from agehpc.errors import UsageError
from agehpc.recipes import RECIPES
from agehpc.train.progress import Progress, is_due


def options(*words):
    return throughput.parse(["--recipe", "video_age_demo", *words])


def row(step, seconds, **more):
    samples = 16
    return {
        "step": step,
        "samples_per_s": samples / seconds,
        "s_per_kimg": 1000 * seconds / samples,
        "wait_share": 0.1,
        **more,
    }


@pytest.mark.parametrize(
    ("autoencoder", "critics", "stages"),
    [
        (None, None, [(2, 2)]),
        (None, [0, 1], [(2, 0), (2, 1)]),
        ([0, 3], None, [(0, 0), (3, 2)]),
        ([0, 3], [1], [(0, 1), (3, 1)]),
        ([0, 3], [1, 2], [(0, 1), (3, 2)]),
    ],
)
def test_stages_become_variants_of_every_world_size(autoencoder, critics, stages):
    words = ["--world-size", "1", "2"]
    words += ["--zero", *map(str, autoencoder)] if autoencoder else []
    words += ["--zero-critics", *map(str, critics)] if critics else []
    todo = throughput.variants(*options(*words, "--", "--train.global-batch", "8"))
    assert [(v.world_size, v.stages) for v in todo] == [(w, s) for w in (1, 2) for s in stages]
    assert [v.plan.micro_batch for v in todo] == [8] * len(stages) + [4] * len(stages)


def test_what_cannot_be_trained_is_refused_before_anything_runs(tmp_path, capsys):
    out = tmp_path / "t.csv"
    words = ["--recipe", "video_age_demo", "--out", str(out)]
    for more, message in [
        (["--world-size", "3"], "--train.global-batch 8 does not divide over 3 ranks"),
        (["--zero", "0", "1", "2", "--zero-critics", "0", "1"], "--zero-critics has 2 stages"),
        (["--", "--train.golbal-batch", "8"], "unknown flag --train.golbal-batch"),
    ]:
        assert throughput.main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        throughput.main([*words, "--steps", "6", "--warmup", "5"])
    assert "fewer than two ticks" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("batch", "steps", "tick_steps"), [(16, 20, 1), (7, 90, 3), (7, 289, 1)])
def test_a_run_makes_its_steps_and_ticks_where_it_should(tmp_path, batch, steps, tick_steps):
    words = ["--steps", str(steps), "--tick-steps", str(tick_steps), "--world-size", "1"]
    parsed, extra = options(*words, "--", "--train.global-batch", str(batch))
    (variant,) = throughput.variants(parsed, extra)
    command = throughput.command_of(variant, parsed, tmp_path, tmp_path / "run")
    assert command[1:5] == ["-m", "agehpc", "train", "video_age_demo"]
    config = throughput.load(command[4:], prog="x", extra=throughput_flags()).config
    assert make_plan(config, 1).steps == steps
    ticks, now = [], Progress()
    for _ in range(steps):
        before, now = now, now.after(batch, batch)
        for every in (config.train.save_every_kimg, config.observe.samples_every_kimg):
            assert not is_due(every, before, now)
        if is_due(config.observe.tick_kimg, before, now):
            ticks.append(now.step)
    assert ticks == list(range(tick_steps, steps + 1, tick_steps))
    assert (config.train.max_minutes, config.evaluate.samples) == (None, 0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_the_flags_that_measure(tmp_path, recipe):
    parsed, extra = throughput.parse(["--recipe", recipe])
    (variant,) = throughput.variants(parsed, extra)
    command = throughput.command_of(variant, parsed, tmp_path, tmp_path / "run")
    config = throughput.load(command[4:], prog="x", extra=throughput_flags()).config
    assert getattr(config.system, "warmup_kimg", 0) == 0
    assert variant.stages[0] == next(iter(config.players.values())).zero.stage
    assert variant.stages[1] in [player.zero.stage for player in config.players.values()] + [0]
    assert (
        "critics" not in config.players or variant.stages[1] == config.players["critics"].zero.stage
    )


def throughput_flags():
    class Flags(throughput.Section):
        out: str

    return Flags


def test_ranks_are_started_by_torchrun(tmp_path):
    parsed, extra = options("--world-size", "2")
    (variant,) = throughput.variants(parsed, extra)
    command = throughput.command_of(variant, parsed, tmp_path, tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert command[:9] == [*launcher, "--nproc-per-node", "2", "-m", "agehpc", "train"]


FAKE = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[1]); run.mkdir()
print("the last words")
time.sleep(0.2)
with (run / "metrics.jsonl").open("w") as file:
    for step in range(1, int(sys.argv[2]) + 1):
        figures = {"samples_per_s": 1.0, "s_per_kimg": 1000.0, "wait_share": 0.0}
        row = {"step": step, "time": time.time(), "memory_gib": step, **figures}
        file.write(json.dumps(row) + chr(10))
(run / "environment.json").write_text('{"cores": 2}')
sys.exit(int(sys.argv[3]))
"""


def fake(run, steps, code):
    return [sys.executable, "-c", FAKE, str(run), str(steps), str(code)]


def test_a_run_is_timed_from_its_process_start_and_warm_up_does_not_count(tmp_path):
    parsed, _ = options("--steps", "6", "--warmup", "2")
    into = throughput.Measured()
    throughput.run_once(fake(tmp_path / "a", 6, 0), tmp_path / "a", parsed, into)
    assert [r["step"] for r in into.ticks[0]] == [3, 4, 5, 6]
    assert into.memory_gib == [6]
    assert 0.2 <= into.first_step_s[0] < 20
    assert into.environment == {"cores": 2}


def test_a_run_that_fails_or_stops_early_leaves_nothing_and_shows_its_output(tmp_path):
    parsed, _ = options("--steps", "6", "--warmup", "2")
    for name, steps, code, message in [
        ("a", 6, 3, "exit code 3"),
        ("b", 5, 0, "exit code 0 at step 5 of 6"),
    ]:
        into = throughput.Measured()
        with pytest.raises(throughput.RunFailedError, match=message) as caught:
            throughput.run_once(fake(tmp_path / name, steps, code), tmp_path / name, parsed, into)
        assert str(caught.value).endswith("the last words")
        assert into == throughput.Measured()


def test_variants_take_turns_and_a_failed_one_is_left_out(tmp_path, monkeypatch, capsys):
    parsed, extra = options("--zero", "0", "1", "2", "--repeats", "2", "--steps", "8")
    todo = throughput.variants(parsed, extra)
    order = []

    def run_once(command, run, options, into):
        stage = command[command.index("--players.autoencoder.zero.stage") + 1]
        order.append(stage)
        if stage == "1":
            raise throughput.RunFailedError("broken")
        into.ticks.append([row(6, 1.0), row(7, 1.0)])

    monkeypatch.setattr(throughput, "run_once", run_once)
    measured, failed = throughput.measure(todo, parsed, [tmp_path] * 3, tmp_path)
    assert order == ["0", "1", "2", "0", "2"]
    assert failed == {1: "broken"}
    assert [len(m.ticks) for m in measured] == [2, 0, 2]


def test_a_row_holds_medians_and_quartiles_over_all_repeats(tmp_path):
    flags = ["--zero", "0", "--world-size", "2", "--", "--train.global-batch", "16"]
    parsed, extra = options(*flags)
    (variant,) = throughput.variants(parsed, extra)
    seconds = [[1.0, 2.0, 3.0], [4.0, 8.0]]
    measured = throughput.Measured(
        ticks=[[row(6, s) for s in repeat] for repeat in seconds],
        first_step_s=[9.0, 30.0, 10.0],
        memory_gib=[1.0, 1.5],
        environment={
            **{"cpu": "CPU", "cores": 2, "devices": ["GPU"], "agehpc": "0", "revision": None},
            "packages": {"torch": "2", "deepspeed": "0"},
        },
    )
    about = {"date": "D", "load_at_start": 0.0, "dataset_id": "I", "flags": "--a 1"}
    got = throughput.result(variant, measured, parsed, about)
    assert tuple(got) == throughput.COLUMNS
    assert (got["samples_per_s"], got["samples_per_s_q1"]) == (pytest.approx(5.333, abs=1e-3), 4.0)
    assert (got["s_per_kimg_q1"], got["s_per_kimg"], got["s_per_kimg_q3"]) == (125, 187.5, 250)
    assert (got["first_step_s"], got["memory_gib"], got["ticks"], got["repeats"]) == (10, 1.5, 5, 2)
    assert (got["micro_batch"], got["threads"], got["revision"]) == (8, 1, "none")
    assert got["device"] == "CPU (2 cores)"  # the recipe trains on the CPU, whatever is there

    slower = throughput.Measured(ticks=[[row(6, 2 * s) for s in repeat] for repeat in seconds])
    slower.ticks[1] = [row(6, 12.0)]
    assert throughput.ratio(slower, measured) == [0.4444, 0.4722, 0.5]
    medians = [statistics.median(16 / s for s in repeat) for repeat in seconds]
    assert throughput.ratio(slower, measured)[0] == pytest.approx((16 / 12) / medians[1], abs=1e-4)
    assert "0.47 (0.44-0.50)" in throughput.table([got | {"ratio": [0.4444, 0.4722, 0.5]}])


def test_rows_are_added_under_one_header_and_other_columns_are_refused(tmp_path):
    path = tmp_path / "new" / "t.csv"
    some = dict.fromkeys(throughput.COLUMNS, "a, b")
    results_csv.append(path, throughput.COLUMNS, [some])
    results_csv.append(path, throughput.COLUMNS, [some | {"recipe": "second"}, some])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == throughput.COLUMNS
    assert [r["recipe"] for r in rows] == ["a, b", "second", "a, b"]
    assert [p.name for p in path.parent.iterdir()] == ["t.csv"]
    before = path.read_text().replace("recipe", "receipt", 1)
    path.write_text(before)
    with pytest.raises(UsageError, match="other columns"):
        results_csv.append(path, throughput.COLUMNS, [some])
    assert path.read_text() == before


@pytest.mark.parametrize("recipe", ["image_age_demo", "video_age_demo"])
def test_the_demo_clips_are_packed_once_and_fit_the_recipe(tmp_path, recipe):
    data = RECIPES[recipe]().data
    shards = throughput.pack_demo(data.kind, data.size, tmp_path)
    written = (shards / "manifest.json").stat().st_mtime_ns
    assert throughput.pack_demo(data.kind, data.size, tmp_path) == shards
    assert (shards / "manifest.json").stat().st_mtime_ns == written
    fits = check(data.model_copy(update={"shards": str(shards)}), read_manifest(shards))
    assert fits.channels == 3
    assert read_manifest(shards).samples("validation") > 1


@pytest.mark.slow
def test_a_real_run_of_a_few_steps_adds_a_row(tmp_path, capsys):
    words = ["--recipe", "image_age_demo", "--world-size", "2", "--steps", "3", "--warmup", "1"]
    words += ["--repeats", "1", "--out", str(tmp_path / "t.csv"), "--json", "--"]
    assert throughput.main([*words, "--train.global-batch", "8"]) == 0
    told = json.loads(capsys.readouterr().out)
    (got,) = told["rows"]
    assert told["failed"] == {}
    assert (got["world_size"], got["global_batch"], got["micro_batch"], got["ticks"]) == (
        2,
        8,
        4,
        2,
    )
    assert 0 < got["samples_per_s_q1"] <= got["samples_per_s"] <= got["samples_per_s_q3"]
    assert 0 <= got["wait_share"] < 1
    assert got["first_step_s"] > 8 / got["samples_per_s"]
    assert got["memory_gib"] > 0.1
    with (tmp_path / "t.csv").open() as file:
        (kept,) = csv.DictReader(file)
    assert kept["flags"] == "--train.global-batch 8"
    assert float(kept["samples_per_s"]) == got["samples_per_s"]


@pytest.mark.slow
def test_a_failing_run_adds_no_row(tmp_path, capsys):
    words = ["--recipe", "image_age_demo", "--steps", "3", "--warmup", "1", "--repeats", "1"]
    words += ["--shards", str(throughput.pack_demo("image", 32, tmp_path))]
    out = tmp_path / "t.csv"
    assert throughput.main([*words, "--out", str(out), "--", "--data.size", "64"]) == 1
    assert "was packed at 32 pixels but --data.size is 64" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 1
