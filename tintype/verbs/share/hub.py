"""Push a run to a model hub, and pull one from there: plain files, none of which is run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tintype.data.cache import cache_folder, writable
from tintype.errors import UserError
from tintype.files.bounded import temporary_folder
from tintype.files.system import rename
from tintype.files.whole import write_json
from tintype.runs.code import rows_of
from tintype.runs.folder import RunFolder
from tintype.runs.graph import has_graph
from tintype.runs.packed import MOST_BYTES, may_hold
from tintype.verbs.share.card import make_card, task_card
from tintype.verbs.share.paths import for_others, shortened

# What lies in a repository. Those of a run come back by `pull`; the others are for other programs.
OF_RUN = (
    "recipe.yaml",
    "model.json",
    "model.safetensors",
    "graph.onnx",
    "evaluation.json",
    "data.json",
)
OF_CODE = ("code.json", "code/*.py")  # text, of runs that need the user's own code
FOR_OTHERS = ("README.md", "config.json", "preprocessor_config.json")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MOST_TEXT = 50_000_000  # bytes of each file but the weights


def push(
    run: RunFolder, repository: str, *, private: bool = False, licence: str | None = None
) -> str:
    """Upload a finished run to a repository of the hub, new or old, and return its address.

    Paths of this machine, predictions of single files and the command line stay here.

    Raises:
        UserError: huggingface_hub is not installed, the run is not finished, nobody is logged in,
            or no connection.
    """
    hub = _import_hub()
    _check_repository(repository)

    with temporary_folder(writable(cache_folder())[0] / "push", mode=0o700) as folder:
        write_repository(run, folder, repository=repository, licence=licence)
        with _plain_errors(hub, repository):
            api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="tintype")
            made = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=f"{run.name}, trained with tintype",
            )

    return str(made)


def pull(repository: str, target: Path, *, revision: str | None = None) -> RunFolder:
    """Download a run from the hub into a new folder; only the files of a run are taken.

    Raises:
        UserError: huggingface_hub is not installed, there is no such repository or no connection,
            it holds no run of
            tintype, or the folder is there already.
    """
    hub = _import_hub()
    _check_repository(repository)
    if target.exists():
        raise UserError(
            f"{target} is there already, and nothing is overwritten. Choose another --name."
        )

    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        with temporary_folder(target) as inside:
            with temporary_folder(target) as downloaded:
                with _plain_errors(hub, repository):
                    _check_sizes(hub, repository, revision, endpoint)
                    hub.snapshot_download(
                        repository,
                        revision=revision,
                        local_dir=downloaded,
                        allow_patterns=[*OF_RUN, *OF_CODE],
                        endpoint=endpoint,
                        library_name="tintype",
                    )
                code = [f"code/{file.name}" for file in (downloaded / "code").glob("*.py")]
                for name in (*OF_RUN, "code.json", *filter(may_hold, code)):
                    if (downloaded / name).is_file():
                        (inside / name).parent.mkdir(exist_ok=True)
                        shutil.move(downloaded / name, inside / name)
            missing = [
                name
                for name in ("recipe.yaml", "model.json", "model.safetensors")
                if not (inside / name).exists()
            ]
            if missing:
                raise UserError(f"{repository} holds no run of tintype: it has no {missing[0]}.")
            RunFolder(inside).set_status("finished", pulled_from=repository)
            rename(inside, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}.") from None

    return RunFolder.open(target)


def write_repository(
    run: RunFolder, folder: Path, *, repository: str | None = None, licence: str | None = None
) -> None:
    """Write what is pushed: weights, card, configuration, and the files that make it a run again.

    Raises:
        UserError: the run is not finished.
    """
    model, evaluation, data = (
        shortened(run.read(f"{name}.json")) for name in ("model", "evaluation", "data")
    )
    weights = run.path / "model.safetensors"
    if not weights.exists():
        raise UserError(
            f"{run.path} has no model.safetensors. Go on with the run: "
            f"tintype train --resume {run.path}"
        )

    (folder / "README.md").write_text(
        make_card(run, licence=licence, repository=repository), encoding="utf-8"
    )
    shutil.copyfile(weights, folder / "model.safetensors")
    if has_graph(run.path):  # without which a network of the user's own could not be used
        shutil.copyfile(run.path / "graph.onnx", folder / "graph.onnx")
    if rows := rows_of(model):
        write_json(folder / "code.json", {"code": rows})
        for copy in filter(None, (row["copy"] for row in rows)):
            (folder / copy).parent.mkdir(exist_ok=True)
            shutil.copyfile(run.path / copy, folder / copy)
    write_json(folder / "model.json", model)
    write_json(folder / "evaluation.json", evaluation)
    write_json(
        folder / "data.json",
        {key: value for key, value in data.items() if key != "skipped"} | {"skipped": []},
    )
    write_json(folder / "config.json", hub_config(run, model))
    write_json(folder / "preprocessor_config.json", preprocessor_config(model))
    recipe = yaml.safe_dump(for_others(run.recipe), sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def hub_config(run: RunFolder, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json: the usual fields of the hubs, with those of the task."""
    how = model["preprocessing"]
    task = task_card(model["task"])
    plain = task.plain(run, model)
    config: dict[str, Any] = {
        "model_type": "tintype",
        "task": model["task"],
        "architectures": [model["architecture"]["name"]],
        "architecture_options": model["architecture"]["options"],
        "num_channels": how["channels"],
        "image_size": [how["height"], how["width"]],
        **task.hub_fields(model, plain),
    }

    if plain is not None:
        config |= {"architecture": plain.name, "library": plain.library}
    return config


def preprocessor_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessor_config.json: the usual fields of the hubs for images."""
    how = model["preprocessing"]

    return {
        "do_resize": task_card(model["task"]).resizes,
        "size": {"height": how["height"], "width": how["width"]},
        "resize_mode": how["resize"],
        "crop_pct": how["crop_fraction"],
        "resample": {"bilinear": 2, "bicubic": 3}[how["interpolation"]],  # Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": how["mean"],
        "image_std": how["std"],
        "do_convert_rgb": how["channels"] == 3,
    }


def _check_repository(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise UserError(
            f"'{repository}' is no repository. Expected the owner and a name, as in ann/garbage."
        )


def _check_sizes(hub: Any, repository: str, revision: str | None, endpoint: str | None) -> None:
    """Refuse to download what cannot be a run, by the sizes that the hub states."""
    info = hub.HfApi(endpoint=endpoint).model_info(
        repository, revision=revision, files_metadata=True
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    for name in (*OF_RUN, *(name for name in sizes if name.startswith("code"))):
        most = MOST_BYTES if name in ("model.safetensors", "graph.onnx") else MOST_TEXT
        if sizes.get(name, 0) > most:
            raise UserError(
                f"{name} in {repository} has {sizes[name]:,} bytes, more than a run's. "
                "It is not downloaded."
            )


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors  # noqa: F401 (which it does not import by itself)
    except ImportError:
        raise UserError(
            "the hub needs huggingface_hub, which is not installed. Type: "
            "pip install 'tintype[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def _plain_errors(hub: Any, repository: str) -> Iterator[None]:
    """Turn what the hub and the network raise into one line."""
    errors = hub.errors

    try:
        yield
    except UserError:
        raise
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the hub has no model {repository}, or does not show it to you. "
            "Log in where it is private: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository} has no such revision.") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(
            "nobody is logged in at the hub. Type: hf auth login (or set HF_TOKEN)"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError):
        raise UserError(_no_connection()) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UserError(
                f"the hub does not let you do that with {repository} ({status}). Log in: "
                "hf auth login (or set HF_TOKEN)"
            ) from None
        raise UserError(
            f"the hub answered with an error ({status}): {' '.join(str(error).split())[:160]}"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{_no_connection()} ({' '.join(str(error).split())[:120]})") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise
        raise UserError(f"{_no_connection()} ({type(error).__name__})") from None


def _no_connection() -> str:
    return (
        "the hub cannot be reached. Check the connection; "
        "`tintype pack RUN` makes one file that travels without it."
    )
