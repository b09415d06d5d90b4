"""Tuning: trials never look at the test split, what falls behind is stopped, and an interrupted
search goes on as it was.
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml

import tintype
from tintype import api
from tintype.errors import Interrupted, UserError
from tintype.files.lease import Leases
from tintype.progress import Live, Watcher
from tintype.recipe import Recipe, build, resolve
from tintype.runs.ranking import criterion_of
from tintype.verbs.tune import Tuning, _next_trials, folder, tune
from tintype.verbs.tune.folder import Outcome, TuningRequest, said_of
from tintype.verbs.tune.space import as_plain, check_space, default_space, own_values, read_space
from tintype.verbs.tune.storage import open_database, without_password
from tintype.verbs.tune.trial import run_trial

SEARCH: dict[str, Any] = {
    "lr": {"low": 0.001, "high": 0.1, "log": True},
    "augment": ["none", {"crop": 1}],
}


def small(**more: Any) -> Recipe:
    """Return the recipe of a run of a fraction of a second."""
    fields = {
        "data": "digits", "model": "ann", "model_options": {"hidden": [8]}, "batch_size": 100, "lr": 0.01, "epochs": 2,
        "precision": "fp32", "device": "cpu", "search": SEARCH,
    }  # fmt: skip
    return build({**fields, **more}, where="")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, short_report: Callable[[Path], Path]) -> Tuning:
    """A finished tuning of four trials. Tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tintype.training.run.write_report", short_report)
        return tune(
            small(),
            trials=4,
            seeds=1,
            out=tmp_path_factory.mktemp("runs"),
            name="tuned",
            watcher=Watcher(),
        )


# ---- the whole --------------------------------------------------------------------------------------------------------


def test_trials_are_runs_that_leave_the_test_split_alone(tuned):
    runs = [tintype.load(str(tuned.path / f"trial-{number:04d}")) for number in range(4)]
    for run, trial in zip(runs, tuned.trials(), strict=True):
        assert set(run.metrics) == {"train", "val"}
        assert run.metrics["val"]["accuracy"] == trial.value
        assert run.recipe.lr == trial.params["lr"]
        assert run.recipe.augment in ("none", {"crop": 1})
    (looks,) = json.loads(
        (tuned.path.parent / ".test-looks.json").read_text(encoding="utf-8")
    ).values()
    assert looks == 1  # the winner's one run


def test_the_first_trial_is_the_recipe_as_it_is(tuned):
    assert tuned.trials()[0].params == {"lr": 0.01, "augment": "none"}


def test_the_winner_is_trained_anew_with_fresh_seeds_and_tested(tuned):
    outcome = tuned.outcome()
    assert outcome.best_validation == max(trial.value for trial in tuned.trials())
    (run,) = tuned.winner.runs()
    assert (run.recipe.seed, run.recipe.measure) == (1, "test")
    assert run.recipe.lr == outcome.settings["lr"] == tuned.best.params["lr"]
    assert outcome.winner["test"] == (run.metrics["test"]["accuracy"], None)
    optimistic, _, honest = tuned.sentences()
    assert "looks better than it is" in optimistic
    assert f"{100 * outcome.best_validation:.1f} %" in optimistic
    assert (
        f"{100 * run.metrics['test']['accuracy']:.1f} % on test, which no trial has used" in honest
    )


def test_the_page_and_the_tables_hold_all_of_it(tuned):
    page = (tuned.path / "tuning.html").read_text(encoding="utf-8")
    for sentence in tuned.sentences():
        assert sentence in page
    assert "What matters" not in page, "so few trials say nothing of it"
    (winner,) = tuned.winner.runs()
    assert f"tintype predict {winner.path} photo.jpg" in page
    with (tuned.path / "table.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["val_accuracy"]) for row in rows] == [trial.value for trial in tuned.trials()]
    written = json.loads((tuned.path / "tuning.json").read_text(encoding="utf-8"))
    assert written["best_trial"] == tuned.best.number
    assert 'href="trial-0003/report.html"' in page


def test_what_matters_is_told_from_enough_trials_only(tuned, monkeypatch):
    assert tuned.importances() == {}
    monkeypatch.setattr(folder, "FEWEST_FOR_IMPORTANCE", len(tuned.trials("COMPLETE")))
    assert sum(tuned.importances().values()) == pytest.approx(1)
    assert "What matters" in tuned.report().read_text(encoding="utf-8")
    monkeypatch.undo()
    tuned.report()


def test_optuna_itself_reads_the_trials(tuned):
    study = optuna.load_study(study_name="tuned", storage=f"sqlite:///{tuned.path}/optuna.db")
    assert study.best_trial.value == tuned.best.value
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE


def test_a_finished_tuning_has_nothing_left_to_do(tuned):
    before = {path: path.stat().st_mtime_ns for path in tuned.path.glob("*/*.json")}
    again = tune(tuned.path, trials=4, seeds=1, watcher=Watcher())
    assert {
        path: path.stat().st_mtime_ns for path in again.path.glob("*/status.json")
    }.items() <= before.items()
    with pytest.raises(UserError, match="goes on as it was begun"):
        tune(tuned.path, lr=0.5, watcher=Watcher())
    with pytest.raises(UserError, match="was begun with another recipe"):
        tune(small(), batch_size=50, out=tuned.path.parent, name="tuned", watcher=Watcher())


@pytest.mark.usefixtures("short_reports")
def test_a_tuning_keeps_the_threads_that_it_was_begun_with(tmp_path):
    here = torch.get_num_threads()
    first = tune(
        small(threads=here + 1), trials=1, seeds=1, out=tmp_path, name="kept", watcher=Watcher()
    )
    again = tune(
        small(), trials=2, seeds=1, out=tmp_path, name="kept", watcher=Watcher()
    )  # auto, where another number is usual
    assert first.winner is not None
    runs = [
        tintype.load(str(again.path / f"trial-{number:04d}")) for number in range(2)
    ] + first.winner.runs()
    assert {run.read("environment.json")["threads"] for run in runs} == {here + 1}
    assert torch.get_num_threads() == here
    with pytest.raises(UserError, match="was begun with another recipe"):
        tune(small(threads=here + 2), trials=2, out=tmp_path, name="kept", watcher=Watcher())


@pytest.mark.usefixtures("short_reports")
def test_a_tuning_that_is_older_than_a_field_goes_on(tmp_path):
    begun = tune(small(), trials=1, seeds=0, out=tmp_path, name="older", watcher=Watcher())
    content = yaml.safe_load((begun.path / "tune.yaml").read_text(encoding="utf-8"))
    del content["recipe"]["threads"], content["recipe"]["flips"], content["recipe"]["split_rule"]
    (begun.path / "tune.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert (
        len(
            tune(small(), trials=2, seeds=0, out=tmp_path, name="older", watcher=Watcher()).trials()
        )
        == 2
    )
    assert len(tune(begun.path, trials=3, seeds=0, watcher=Watcher()).trials()) == 3
    rules = [
        tintype.load(str(begun.path / f"trial-{number:04d}")).recipe.split_rule
        for number in range(3)
    ]
    # the first was begun as it is now
    assert rules == ["from-photos", "at-image-size", "at-image-size"]


@pytest.mark.usefixtures("short_reports")
def test_in_a_notebook_each_trial_draws_its_curves(tmp_path):
    shown: list[str] = []
    display = SimpleNamespace(show=lambda html, text: shown.append(f"{html}\n{text}"))
    tune(small(), trials=1, seeds=0, out=tmp_path, watcher=Live(display, seconds=0))  # pyright: ignore[reportArgumentType]
    assert any("validation accuracy" in each for each in shown)  # what the picture is said to show
    assert any("loss: loss" in each for each in shown)


@pytest.mark.parametrize(
    ("name", "changes", "figure", "told"),
    [
        ("digits-gan", {"steps": 3, "model_options.hidden": [8], "model_options.discriminator_hidden": [8]}, "fd_pixels8",
         "180 generated images with those of as many validation images"),
        ("photos-x2", {"steps": 2, "batch_size": 2, "task.patch": 32}, "psnr_y", "PSNR on 2 validation photos"),
    ],
)  # fmt: skip
def test_what_generates_and_what_enlarges_is_tuned_too(tmp_path, name, changes, figure, told):
    recipe = resolve(name)[0].replace(**changes, device="cpu", search={"lr": [0.001]})
    tuned = tune(recipe, trials=1, seeds=0, out=tmp_path, name="tuned", watcher=Watcher())
    run = tintype.load(str(tuned.path / "trial-0000"))
    assert set(run.metrics) == {"train", "val"}
    assert run.metrics["val"][figure] == tuned.best.value
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert told in page


# ---- resume, prune, share ---------------------------------------------------------------------------------------------


class StopsAt(Watcher):
    """Stops the run at a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, total_steps: int, loss: float, images_per_second: float) -> None:
        if step == self.step:
            raise Interrupted(2, Path())


@pytest.mark.usefixtures("short_reports")
def test_an_interrupted_trial_goes_on_with_what_it_had(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr("tintype.training.engine.CHECKPOINT_SECONDS", 0.0)
    wish = {"trials": 2, "seeds": 0, "out": tmp_path, "name": "tuned"}
    with pytest.raises(Interrupted, match=r"continue with: tt\.tune\("):
        tune(small(), **wish, watcher=StopsAt(15))
    found = tune(small(), **wish, watcher=Watcher())
    of_both = [(t.number, t.params, t.value) for t in tuned.trials()[:2]]
    # as if nothing had happened
    assert [(t.number, t.params, t.value) for t in found.trials()] == of_both
    assert found.winner is None


@pytest.mark.usefixtures("short_reports")
def test_a_trial_that_falls_behind_is_stopped_and_keeps_its_folder(tmp_path):
    wishes = TuningRequest(
        small(epochs=4), read_space({"lr": {"low": 1e-6, "high": 1e-5}}), "accuracy", True, False
    )
    database = open_database(tmp_path, "t", None, higher_is_better=True)
    good = {"lr": optuna.distributions.FloatDistribution(1e-6, 1e-5)}
    for _ in range(4):
        database.add_trial(
            optuna.trial.create_trial(
                params={"lr": 5e-6},
                distributions=good,
                value=0.99,
                intermediate_values={1: 0.9, 2: 0.95, 3: 0.99},
            )
        )
    tuning = Tuning(tmp_path, wishes, database)
    database.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    lease = Leases(tmp_path / "leases").take("trial")
    assert lease is not None
    assert run_trial(tuning, database.ask(), Watcher(), lease).startswith("stopped early")
    lease.release()
    (pruned,) = tuning.trials("PRUNED")
    run = api.Run(tmp_path / pruned.user_attrs["run"])
    assert run.status["state"] == "pruned"
    steps = [int(float(row["step"])) for row in run.read_table("metrics.csv")]
    assert steps == list(range(1, len(steps) + 1))
    assert 13 <= len(steps) < 26  # it was stopped at the second of four evaluations


@pytest.mark.usefixtures("short_reports")
def test_two_folders_share_a_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    wish = {"storage": url, "seeds": 0, "name": "together", "watcher": Watcher()}
    first = tune(small(epochs=1), trials=1, out=tmp_path / "a", **wish)
    second = tune(small(epochs=1), trials=2, out=tmp_path / "b", **wish)
    assert [trial.number for trial in second.trials()] == [0, 1]
    assert (first.path / "trial-0000").exists()
    assert not (second.path / "trial-0000").exists()
    assert (second.path / "trial-0001").exists()
    assert not (second.path / "optuna.db").exists()
    with pytest.raises(UserError, match="lie in a shared database"):
        tune(first.path, watcher=Watcher())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("short_reports")
def test_those_who_join_a_tuning_share_its_trials_and_may_be_killed(tmp_path):
    from test_kills import Child

    begun = tune(small(epochs=1), out=tmp_path, name="shared", workers=0, watcher=Watcher())
    assert begun.trials() == []
    joining = ["tune", str(begun.path), "--join", "--trials", "6", "--seeds", "1"]
    moments = random.Random(0)
    codes: list[int] = []
    while codes[-2:] != [0, 0]:
        most = 300 if len(codes) < 4 else 0
        pair = [Child(joining, tmp_path, moments.randint(0, most)) for _ in range(2)]
        codes += [child.ended()[0] for child in pair]
        assert set(codes) <= {0, -9}
    assert -9 in codes
    found = Tuning(begun.path, begun.request, begun.database)
    complete = found.trials("COMPLETE")
    assert len(found.trials()) == len(complete) == 6
    for trial in complete:
        run = api.Run(begun.path / trial.user_attrs["run"])
        assert run.metrics["val"]["accuracy"] == trial.value
    assert found.winner is not None
    assert len(found.winner.runs()) == 1
    assert not (begun.path / ".leases").exists()


def test_what_cannot_be_joined_is_one_clear_line(tuned, tmp_path):
    for what, wanted in (
        (tuned.path, "lie in SQLite, which one process at a time can use"),
        ("digits", "there is no tuning to join in"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            tune(what, out=tmp_path, join=True, watcher=Watcher())
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="Expected a number from 1 on"):
        tune(tuned.path, join=True, workers=0, watcher=Watcher())


def test_what_is_proposed_follows_from_seed_number_and_history(tmp_path):
    def proposals(folder: Path, restart_at: int | None) -> list[dict[str, Any]]:
        folder.mkdir()
        wishes = TuningRequest(small(), read_space(SEARCH), "accuracy", True, False)
        tuning = Tuning(folder, wishes, open_database(folder, "t", None, higher_is_better=True))
        for number, (trial, lease) in enumerate(_next_trials(tuning, 8, 2)):
            lr, _ = (entry.suggest(field, trial) for field, entry in wishes.space.items())
            tuning.database.tell(trial, 1 - abs(lr - 0.03))
            lease.release()
            if number == restart_at:
                break
        if restart_at is not None:
            tuning = Tuning(folder, wishes, open_database(folder, "t", None, higher_is_better=True))
            for trial, lease in _next_trials(tuning, 8, 2):
                lr, _ = (entry.suggest(field, trial) for field, entry in wishes.space.items())
                tuning.database.tell(trial, 1 - abs(lr - 0.03))
                lease.release()
        return [trial.params for trial in tuning.trials()]

    whole = proposals(tmp_path / "a", None)
    assert whole == proposals(tmp_path / "b", 4)
    assert len({p["lr"] for p in whole}) == 8


# ---- the space --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"lrr": [1]}, "unknown field in search: 'lrr'. Did you mean 'lr'"),
        ({"lr": []}, "search.lr is empty"),
        ({"lr": 0.1}, "search.lr is 0.1. Expected a list"),
        ({"lr": {"low": 1}}, "Expected a list of values, or {low"),
        ({"lr": {"low": 1, "high": 0.1}}, "low is 1 and high is 0.1"),
        ({"lr": {"low": "a", "high": 1}}, "search.lr: low is 'a'. Expected a number"),
        ({"lr": {"low": 0.1, "high": None}}, "search.lr: high is None. Expected a number"),
        ({"lr": {"low": 0.1, "high": float("inf")}}, "high is inf. Expected a number"),
        ({"lr": {"low": 0.1, "high": 1, "log": "perhaps"}}, "Expected true or false"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "low must be above 0"),
        ({"lr": {"low": 0.1, "high": 1, "stepp": 2}}, "unknown key in search.lr: 'stepp'"),
        ({"lr": {"low": 0.1, "high": 1, "step": -1}}, "step is -1"),
        ({"lr": ["a", "a"]}, "stands twice"),
        ({"seed": [1, 2]}, "may not choose seed"),
        ({"test_fraction": [0.1, 0.2]}, "may not choose test_fraction"),
    ],
)
def test_what_is_wrong_with_a_search_space_is_one_clear_line(search, message):
    with pytest.raises(UserError) as error:
        read_space(search)
    assert message in str(error.value)


def test_values_that_make_no_recipe_are_found_before_the_start():
    with pytest.raises(UserError, match=r"search\.batch_size"):
        check_space(small(), read_space({"batch_size": [64, 0]}))
    with pytest.raises(UserError, match=r"search\.label_smoothing"):
        check_space(small(), read_space({"label_smoothing": {"low": 0.0, "high": 1.5}}))


def test_a_space_is_written_as_it_was_read():
    search = {
        **SEARCH,
        "batch_size": {"low": 32, "high": 128, "step": 32},
        "model_options.hidden": [[8], [16, 8]],
    }
    assert as_plain(read_space(as_plain(read_space(search)))) == as_plain(read_space(search))
    assert as_plain(read_space({"lr": {"low": -1, "high": 0}})) == {"lr": {"low": -1, "high": 0}}
    assert read_space(search)["batch_size"].whole
    trial = optuna.trial.FixedTrial(
        {"batch_size": 96, "lr": 0.01, "augment": "crop 1", "model_options.hidden": "16-8"}
    )
    assert [entry.suggest(field, trial) for field, entry in read_space(search).items()] == [
        0.01,
        {"crop": 1},
        96,
        [16, 8],
    ]


@pytest.mark.parametrize(
    "name", ["digits", "digits-ann", "garbage-tuned", "digits-gan", "mnist-flow", "t91-fast-x2"]
)
def test_every_task_has_a_space_by_default_that_holds_the_recipe_itself(name):
    recipe = tintype.recipe.resolve(name)[0]
    space = default_space(recipe, ["generator", "discriminator"] if name == "digits-gan" else [])
    check_space(recipe, space)
    assert "lr" in space
    own = own_values(recipe.replace(lr=recipe.lr), space)
    assert own is None or own["lr"] == recipe.lr


# ---- words and mistakes -----------------------------------------------------------------------------------------------


def test_the_words_keep_apart_what_flatters_and_what_is_honest():
    measure = criterion_of("classify", {"accuracy": 0.0})
    outcome = Outcome(
        "accuracy", 20, 5, 1, 7, 0.934, {}, 3, {"val": (0.921, 0.004), "test": (0.917, 0.002)}
    )
    said = " ".join(said_of(outcome, measure))
    assert "number 7, whose accuracy on validation is 93.4 %" in said
    assert (
        "3 new seeds, these settings reach 92.1 % (standard deviation 0.4) on validation (−1.3 points)"
        in said
    )
    assert "The honest figure is 91.7 % (standard deviation 0.2) on test" in said
    assert said_of(Outcome("accuracy", 3, 0, 3, None, None, {}), measure) == [
        "None of 3 trials finished."
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:9/trials",
        "nonsense",
        "what://me:secret@host/x",
        "sqlite:////no/such/folder/t.db",
    ],
)
def test_a_database_that_does_not_answer_is_one_clear_line(tmp_path, url):
    with pytest.raises(UserError) as error:
        open_database(tmp_path, "t", url, higher_is_better=True)
    assert "database" in str(error.value)
    assert "secret" not in str(error.value)
    # and what it left behind is not in the way of a second attempt
    with pytest.raises(UserError, match="database"):
        tune(small(), storage=url, out=tmp_path, name="t", watcher=Watcher())
    with pytest.raises(UserError, match="database"):
        tune(small(), storage=url, out=tmp_path, name="t", watcher=Watcher())
    assert "\n" not in str(error.value)
    assert without_password(url).replace("***", "secret") == url


def test_wrong_wishes_are_refused(tmp_path, monkeypatch):
    for wish, message in (
        ({"trials": 0}, "trials is 0"), ({"seeds": -1}, "seeds is -1"), ({"time": "soon"}, "time is 'soon'"),
        ({"lrr": 1}, "unknown field 'lrr'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            tune(small(), out=tmp_path, watcher=Watcher(), **wish)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not a tuning"):
        tune(small(), out=tmp_path, name="taken", watcher=Watcher())
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'tintype\[tune\]'"):
        tune(small(), out=tmp_path, watcher=Watcher())


@pytest.mark.usefixtures("short_reports")
def test_when_every_trial_fails_the_reason_is_told(tmp_path):
    recipe = small(search={"lr": [1e30, 1e29]}, lr=1e30)
    with pytest.raises(UserError, match=r"no trial came to its end.*not finite"):
        tune(recipe, trials=2, seeds=0, out=tmp_path, name="mad", watcher=Watcher())
