"""Sharing: cards, packed runs, hostile zip files, and a hub that a small server stands in for."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file

import tintype
from tintype import api, cli
from tintype.data.decode import fit
from tintype.errors import UserError
from tintype.progress import Watcher
from tintype.recipe import build
from tintype.runs import packed
from tintype.runs.model import resize_of
from tintype.runs.packed import unpack
from tintype.verbs.share import hub
from tintype.verbs.share.card import make_card

# ---- the card ---------------------------------------------------------------------------------------------------------


def head_of(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_card_tells_the_figures_with_their_intervals(finished_run):
    card, test = make_card(finished_run, licence="apache-2.0"), finished_run.metrics["test"]
    head = head_of(card)
    assert (head["license"], head["pipeline_tag"], head["library_name"]) == (
        "apache-2.0",
        "image-classification",
        "tintype",
    )
    [result] = head["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]}["accuracy"] == pytest.approx(
        test["accuracy"], abs=1e-6
    )
    low, high = test["accuracy_ci95"]
    assert (
        f"| test | {test['num_images']} | {test['accuracy']:.2%} | {low:.2%} to {high:.2%} |"
        in card
    )
    assert finished_run.read("evaluation.json")["verdict"]["text"] in card
    worst = min(
        finished_run.read("evaluation.json")["per_class"]["test"], key=lambda row: row["f1"]
    )
    assert f"Weakest classes on test: {worst['name']} (F1 {worst['f1']:.2f}" in card
    assert "Most confused on test" in card
    assert 'tt.load("digits")' in card


def test_the_card_hides_no_leak_and_no_second_look(copied_run):
    evaluation, data = copied_run.read("evaluation.json"), copied_run.read("data.json")
    evaluation["warnings"] = [
        "7 of 359 test images are duplicates of images that training has seen"
    ]
    evaluation["test_looks"] = {"run": 1, "data": 5}
    evaluation["splits"]["test"]["without_leaked"] = {
        **evaluation["splits"]["test"],
        "accuracy": 0.5,
    }
    copied_run.write("evaluation.json", evaluation)
    copied_run.write(
        "data.json",
        {**data, "notes": ["LEAK: 7 of 359 test images are duplicates"], "name": "my [x](y)"},
    )
    card = make_card(copied_run)
    assert "Warning: 7 of 359 test images are duplicates" in card
    assert "- LEAK: 7 of 359" in card
    assert "The test set has been used 5 times" in card
    assert "| test, without leaked images | 359 | 50.00% |" in card
    assert r"my \[x\](y)" in card, "a name is no link"
    assert head_of(card)["license"] == "other"
    assert "No licence was chosen" in card


@pytest.mark.parametrize("threshold", [0.0, 0.83])
def test_the_card_says_what_the_threshold_means(copied_run, threshold):
    model = copied_run.read("model.json")
    copied_run.write(
        "model.json", {**model, "abstain": [{"accuracy": 0.95, "threshold": threshold}]}
    )
    right = f"{copied_run.metrics['test']['accuracy']:.1%} were right on test."
    card = make_card(copied_run)
    assert (f"- Every answer counts; {right}" in card) == (threshold == 0)
    assert ("at least 95% of the answers with a confidence of 0.83 or more are right" in card) == (
        threshold > 0
    )


def test_the_card_of_a_run_that_left_the_test_split_alone(copied_run):
    evaluation = copied_run.read("evaluation.json")
    del evaluation["splits"]["test"]
    copied_run.write("evaluation.json", evaluation)
    card = make_card(copied_run)
    assert head_of(card)["model-index"][0]["results"][0]["dataset"]["split"] == "val"
    assert "It was not measured on its test set" in card
    assert "Weakest classes on val" in card


def test_the_card_is_written_by_the_command(copied_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # its own file is made again
        with pytest.raises(SystemExit) as end:
            cli.main(["card", str(copied_run.path)])
        assert not end.value.code
    assert (copied_run.path / "MODEL_CARD.md").read_text(encoding="utf-8") == make_card(copied_run)
    (tmp_path / "mine.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.md already exists and will not be overwritten"):
        copied_run.card("mine.md")
    assert "# copied" in copied_run.card("-")


# ---- packed runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zip_file(finished_run, tmp_path_factory) -> Path:
    return finished_run.pack(tmp_path_factory.mktemp("packed") / "digits.zip")


def test_a_packed_run_is_the_run(finished_run, zip_file, digit_files, tmp_path, monkeypatch):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    run = tintype.load(str(zip_file))
    assert run.name == "digits"
    assert run.metrics == finished_run.metrics
    expected, got = finished_run.predict(digit_files), run.predict(digit_files)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(a.probs, b.probs)
    assert tintype.load(str(zip_file)).path == run.path, "unpacked once"
    assert run.report().exists()
    assert not (run.path / "checkpoints").exists()


def test_commands_take_a_packed_run(zip_file, digit_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    for arguments in (
        ["predict", zip_file, digit_files / "3"],
        ["load", zip_file, "--out", tmp_path / "runs", "--name", "new"],
    ):
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        assert not end.value.code
    assert str(digit_files) in capsys.readouterr().out
    assert (tmp_path / "runs" / "new" / "model.safetensors").exists()
    with pytest.raises(UserError, match="is there already"):
        unpack(zip_file, tmp_path / "runs" / "new")


def test_the_same_run_packs_to_the_same_bytes(finished_run, zip_file, tmp_path):
    again = finished_run.pack(tmp_path / "again.zip")
    assert again.read_bytes() == zip_file.read_bytes()
    with pytest.raises(UserError, match="is there already"):
        finished_run.pack(again)
    with pytest.raises(UserError, match=r"ends in \.zip"):
        finished_run.pack(tmp_path / "again.tar")


NEEDED = {"recipe.yaml": b"{}", "model.json": b"{}", "model.safetensors": b"0" * 200}


def zipped(path: Path, files: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)
    return path


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"../evil.json": b"x"}, "holds '../evil.json', which is no file of a run"),
        ({"/tmp/evil.json": b"x"}, "which is no file of a run"),
        ({"samples/../../evil.png": b"x"}, "which is no file of a run"),
        ({"samples\\..\\evil.png": b"x"}, "which is no file of a run"),
        ({"samples/deeper/evil.png": b"x"}, "which is no file of a run"),
        ({"C:evil.json": b"x"}, "which is no file of a run"),
        ({"code.py": b"x"}, "holds 'code.py', which is no file of a run"),
        ({"model.pkl": b"x"}, "which is no file of a run"),
        ({".lock": b"x"}, "which is no file of a run"),
        ({"a\x1b[31m\n.json": b"x"}, r"'a\x1b[31m\n.json'"),
        ({link("samples/link.png"): b"/etc/passwd"}, "holds a link or a device"),
        ({link("samples"): b"/etc"}, "holds a link or a device"),
        ({link("metrics.csv", stat.S_IFIFO): b""}, "holds a link or a device"),
        ({"metrics.csv": b"0" * 50_000_000}, "far more than its own size (a bomb?)"),
        ({f"samples/{k}.png": b"" for k in range(5001)}, "5,004 files"),
    ],
)
def test_a_hostile_zip_leaves_nothing(tmp_path, files, said):
    path = zipped(tmp_path / "hostile.zip", {**NEEDED, **files})
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError) as error:
        unpack(path, tmp_path / "inside" / "run")
    assert said in str(error.value)
    assert "It is not unpacked" in str(error.value)
    assert {p.name for p in tmp_path.rglob("*")} == {"hostile.zip", "inside"}


def test_a_file_that_says_it_is_smaller_than_it_is(tmp_path, monkeypatch):
    """The sizes in the directory are a claim; what is read counts."""
    path = zipped(tmp_path / "liar.zip", {**NEEDED, "metrics.csv": b"0" * 3_000_000})
    monkeypatch.setattr(packed, "MOST_BYTES", 1_000_000)
    checked = packed._checked

    def believed(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
        entries = archive.infolist()
        sizes = [entry.file_size for entry in entries]
        for entry in entries:
            entry.file_size = 10
        found = checked(archive, file)
        for entry, size in zip(entries, sizes, strict=True):
            entry.file_size = size
        return found

    monkeypatch.setattr(packed, "_checked", believed)
    with pytest.raises(UserError, match="holds more than it says"):
        unpack(path, tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["liar.zip"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no zip file that can be read"),
        (b"PK\x03\x04 nothing of the kind", "is no zip file that can be read"),
        ("cut", "is no zip file that can be read"),
        ("flipped", "is no zip file that can be read, or is damaged"),
        ("incomplete", "it has no model.safetensors"),
        ("twice", "twice"),
    ],
)
def test_a_zip_that_is_damaged_or_incomplete(tmp_path, zip_file, content, said):
    path, whole = tmp_path / "bad.zip", zip_file.read_bytes()
    if content == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "flipped":
        middle = whole.index(b"model.safetensors") + 400
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    elif content == "incomplete":
        zipped(path, dict.fromkeys(("recipe.yaml", "model.json"), b"{}"))
    elif content == "twice":
        zipped(path, NEEDED)
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("model.json", b"{}")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        unpack(path, tmp_path / "run")
    assert said in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


def test_an_unfinished_run_is_not_packed(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("model: ann", encoding="utf-8")
    with pytest.raises(UserError, match=r"Go on with: tt\.train\(resume="):
        api.Run.open(tmp_path / "begun").pack(tmp_path / "begun.zip")


# ---- the hub ----------------------------------------------------------------------------------------------------------

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as one upload and one download need; what is stored lies
    in `server.files`.
    """

    server: Any

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body, place = self.body(), f"http://{self.headers['Host']}/ann/digits"
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.status != 200:
            self.answer({"error": "no"}, self.server.status)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": place})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(
                        line["value"]["content"]
                    )
            self.answer(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"{place}/commit/{COMMIT}",
                    "hookOutput": "",
                }
            )
        else:
            self.answer({})

    def do_GET(self) -> None:
        files = self.server.files
        if "/resolve/" in self.path:
            name = self.path.split("/resolve/")[1].partition("/")[2]
            self.server.fetched.add(name)
            self.answer(
                files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"', X_Repo_Commit=COMMIT
            )
        elif not files:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif "/tree/" in self.path:
            self.answer([
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for n, c in files.items()
            ])  # fmt: skip
        else:
            siblings = [
                {"rfilename": n, "size": self.server.claims.get(n, len(c))}
                for n, c in files.items()
            ]
            self.answer({"id": "ann/digits", "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path) -> Iterator[Any]:
    served: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    served.files, served.seen, served.fetched, served.claims, served.status = {}, [], set(), {}, 200
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield served
    served.shutdown()
    served.server_close()


def test_a_run_pushed_and_pulled_is_the_run(finished_run, digit_files, server, tmp_path):
    address = hub.push(finished_run, "ann/digits", private=True, licence="mit")
    assert address.endswith("/ann/digits")
    assert server.created["name"] == "digits"
    assert {token for _, token in server.seen} == {"Bearer hf_secret"}
    assert set(server.files) == {*hub.OF_RUN, *hub.FOR_OTHERS} - {"graph.onnx"}
    assert head_of(server.files["README.md"].decode())["license"] == "mit"
    assert "tintype pull ann/digits" in server.files["README.md"].decode()
    assert json.loads(server.files["config.json"])["id2label"]["3"] == "3"
    preprocessor = json.loads(server.files["preprocessor_config.json"])
    assert preprocessor["image_mean"] == finished_run.read("model.json")["preprocessing"]["mean"]
    everything = b"".join(server.files.values())
    assert str(finished_run.path.parent).encode() not in everything
    assert str(Path.home()).encode() + b"/" not in everything

    server.files["evil.py"] = b"print('never fetched')"
    run = hub.pull("ann/digits", tmp_path / "runs" / "pulled")
    assert "evil.py" not in server.fetched
    assert {p.name for p in run.path.iterdir()} == {*hub.OF_RUN, "status.json"} - {"graph.onnx"}
    again = api.Run(run.path)
    for a, b in zip(
        finished_run.predict(digit_files / "5"), again.predict(digit_files / "5"), strict=True
    ):
        np.testing.assert_array_equal(a.probs, b.probs)
    assert again.metrics == finished_run.metrics
    with pytest.raises(UserError, match="is there already"):
        hub.pull("ann/digits", run.path)


def test_what_the_hub_refuses_is_one_line(finished_run, server, tmp_path):
    with pytest.raises(UserError, match="the hub has no model ann/nothing"):
        hub.pull("ann/nothing", tmp_path / "run")
    for status, said in (
        (401, "Log in: hf auth login"),
        (403, "does not let you"),
        (500, "answered with an error"),
    ):
        server.status = status
        with pytest.raises(UserError, match=said):
            hub.push(finished_run, "ann/digits")
    server.files["README.md"] = b"somebody else's"
    with pytest.raises(UserError, match=r"holds no run of tintype: it has no recipe.yaml"):
        hub.pull("ann/digits", tmp_path / "run")
    server.files["model.json"], server.claims["model.json"] = b"{}", 10**10
    with pytest.raises(UserError, match=r"more than a run's\. It is not downloaded"):
        hub.pull("ann/digits", tmp_path / "run")
    assert not list(tmp_path.rglob("*.json"))
    for name in ("digits", "a/b/c", "../x", "ann/", "ann/di gits"):
        with pytest.raises(UserError, match="is no repository"):
            hub.push(finished_run, name)


def test_without_a_connection_it_says_so(finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for call in (
        lambda: hub.push(finished_run, "ann/digits"),
        lambda: hub.pull("ann/digits", tmp_path / "run"),
    ):
        with pytest.raises(UserError, match="the hub cannot be reached"):
            call()
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'tintype\[hub\]'"):
        hub.push(finished_run, "ann/digits")


# ---- other libraries --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name, photo in {"cat": skimage.data.chelsea(), "coffee": skimage.data.coffee()}.items():
        (root / name).mkdir()
        for k in range(20):
            Image.fromarray(photo[k * 8 : k * 8 + 80, k * 9 : k * 9 + 80]).save(
                root / name / f"{k:02d}.png"
            )
    return root


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "timm/test_resnet"])
def test_the_weights_load_into_the_plain_network(photos, tmp_path, model):
    fields = {
        "data": str(photos), "image_size": 32, "model": model, "weights": "none", "steps": 2, "batch_size": 8, "lr": 0.01,
        "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    run = api.train(build(fields, where=""), out=tmp_path, name="run", watcher=Watcher())
    (tmp_path / "repository").mkdir()
    hub.write_repository(run, tmp_path / "repository")
    config = json.loads((tmp_path / "repository" / "config.json").read_text(encoding="utf-8"))
    if model.startswith("timm"):
        import timm

        network = timm.create_model(config["architecture"], num_classes=config["num_classes"])
        assert config["label_names"] == ["cat", "coffee"]
    else:
        network = torchvision.models.get_model(
            config["architecture"], num_classes=config["num_labels"]
        )
    network.load_state_dict(load_file(tmp_path / "repository" / "model.safetensors"))
    how = json.loads(
        (tmp_path / "repository" / "preprocessor_config.json").read_text(encoding="utf-8")
    )
    photo, described = (
        np.ascontiguousarray(skimage.data.coffee()[100:160, 100:150]),
        run.read("model.json"),
    )
    picture = np.array(fit(photo, **how["size"], channels=3, resize=resize_of(described)))
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] * how["rescale_factor"]
    mean, std = (torch.tensor(how[key]).view(1, -1, 1, 1) for key in ("image_mean", "image_std"))
    with torch.inference_mode():
        logits = network.eval()((x.float() - mean) / std)
    probabilities = torch.softmax(logits / described["temperature"], 1)[0].numpy()
    np.testing.assert_allclose(probabilities, run.predict(photo).probs, atol=1e-4)
    card = (tmp_path / "repository" / "README.md").read_text(encoding="utf-8")
    assert f"plain state dict of {config['library']}" in card


def test_what_is_not_plain_is_not_called_so(finished_run, tmp_path):
    assert "plain state dict" not in make_card(finished_run)
    (tmp_path / "repository").mkdir()
    hub.write_repository(finished_run, tmp_path / "repository")
    assert "library" not in json.loads(
        (tmp_path / "repository" / "config.json").read_text(encoding="utf-8")
    )
