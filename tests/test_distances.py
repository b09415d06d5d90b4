"""Distances between real and generated images, against SciPy, torch-fidelity and cases that are
known by hand.
"""

from __future__ import annotations

import http.server
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import polynomial_kernel

from tintype.data import open_data
from tintype.errors import UserError
from tintype.tasks.frozen import FrozenBackbone
from tintype.tasks.generate import distances


def features(count: int, size: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(size, size))
    return torch.from_numpy(draw.normal(shift, 1, (count, size)) @ mixing).float()


def digits() -> torch.Tensor:
    """Real pictures (1797, 1, 8, 8) uint8."""
    return torch.from_numpy(load_digits().images * 15).round().to(torch.uint8)[:, None]  # pyright: ignore[reportAttributeAccessIssue]


def frechet_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as it is written, with the root of the product of both covariances."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(
        np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * np.real(root))
    )


@pytest.mark.machines
@given(seed=st.integers(0, 10_000), size=st.integers(2, 24), shift=st.floats(0, 3))
@settings(max_examples=20, deadline=None)
def test_frechet_distance_is_that_of_scipy(seed, size, shift):
    real, fake = features(200, size, seed), features(150, size, seed + 1, shift)
    expected = frechet_by_scipy(real.double().numpy(), fake.double().numpy())
    assert distances.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.machines
def test_frechet_distance_of_fewer_images_than_features():
    """Where covariances are singular, sqrtm loses digits; identical sets are at distance zero all
    the same.
    """
    real = features(20, 64, 0)
    assert distances.frechet_distance(real, real) == pytest.approx(0, abs=1e-4)
    moved = distances.frechet_distance(real, real + 2)
    assert moved == pytest.approx(64 * 4, rel=1e-5)
    with pytest.raises(ValueError, match="cannot be compared"):
        distances.frechet_distance(real[:1], real)


def test_frechet_and_kernel_distance_are_those_of_torch_fidelity():
    fidelity = pytest.importorskip(
        "torch_fidelity", reason="an optional extra: pip install 'tintype[fid]'"
    )
    from torch_fidelity import metric_fid, metric_kid

    del fidelity
    real, fake = features(300, 16, 1), features(300, 16, 2, 0.3)
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (real, fake)]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[
        "frechet_inception_distance"
    ]
    assert distances.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)
    pairs = ((real, real), (fake, fake), (real, fake))
    kernels = [polynomial_kernel(a.double(), b.double(), degree=3, coef0=1) for a, b in pairs]
    expected = metric_kid.mmd2(kernels[0 + 0], kernels[2], kernels[1], unit_diagonal=False)
    assert distances.kernel_distance(real, fake) == pytest.approx(float(expected), rel=1e-9)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the Inception network of the protocol, drawn at random: the right ones are a
    download of 91 MB.
    """
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="an optional extra"
    )
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_features_of_fid_are_those_of_torch_fidelity_from_pixels_on(inception_file):
    """Images, resize and network; what is computed of features is compared above."""
    from torch_fidelity.utils import create_feature_extractor

    digits = torch.from_numpy((load_digits().images[:12] * 15.9).astype(np.uint8))[:, None].repeat(
        1, 3, 1, 1
    )
    extractor = create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        cuda=False,
        feature_extractor_weights_path=str(inception_file),
    )
    [expected] = extractor(digits)
    network = distances.inception_features(str(inception_file), torch.device("cpu"))
    ours = network.extract(digits)[0]
    assert expected.std(0).max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_inception_weights_are_downloaded_once(inception_file, tmp_path, monkeypatch):
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = inception_file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("TINTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    device = torch.device("cpu")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setenv("TINTYPE_WEIGHTS_MIRROR", f"http://127.0.0.1:{served.server_port}")
        images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        found = [
            distances.inception_features("download", device).extract(images)[0] for _ in range(2)
        ]
        served.shutdown()
    torch.testing.assert_close(
        found[0], distances.inception_features(str(inception_file), device).extract(images)[0]
    )
    assert len(asked) == 1
    for file in (tmp_path / "cache").rglob("*.pth"):
        file.unlink()
    with pytest.raises(
        UserError, match=r"Inception could not be downloaded .* name it in place of download"
    ):
        distances.inception_features("download", device)


def test_inception_weights_run_no_code(inception_file, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(
        {**torch.load(inception_file, weights_only=True), "trap": Trap()}, tmp_path / "trap.pth"
    )
    with pytest.raises(UserError):
        distances.inception_features(str(tmp_path / "trap.pth"), torch.device("cpu"))
    assert not (tmp_path / "sprung").exists()


def test_kernel_distance_is_the_unbiased_estimate():
    real, fake = features(120, 8, 3), features(90, 8, 4, 0.5)
    k = {
        key: polynomial_kernel(a.double(), b.double(), degree=3, coef0=1, gamma=1 / 8)
        for key, a, b in (("rr", real, real), ("ff", fake, fake), ("rf", real, fake))
    }
    off = {
        key: (v.sum() - np.trace(v)) / (len(v) * (len(v) - 1))
        for key, v in k.items()
        if key != "rf"
    }
    expected = off["rr"] + off["ff"] - 2 * k["rf"].mean()
    assert distances.kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_tell_quality_from_variety():
    real = torch.cat([features(60, 2, 0), features(60, 2, 1) + 50])  # two clusters
    precision, recall = distances.precision_recall(real, features(60, 2, 2))
    assert precision > 0.8
    assert recall == pytest.approx(0.5, abs=0.1), "one of the clusters is not made"
    precision, recall = distances.precision_recall(real, features(60, 2, 3) + 500)
    assert (precision, recall) == (0, 0)
    assert distances.precision_recall(real, real) == (1, 1)


def test_precision_by_hand():
    """Four points on a line; the third neighbour of each gives the radius 3, 2, 2, 3."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    fake = torch.tensor([[5.9], [6.1], [-2.9], [100.0]])
    assert distances.precision_recall(real, fake)[0] == 0.5


def test_nearest_finds_the_image_itself_across_blocks():
    images = digits()
    near, distance = distances.nearest(images[[5, 900, 1700]], images.split(400))
    assert near.tolist() == [5, 900, 1700]
    assert distance.max() < 0.01
    _, distance = distances.nearest(images[:1], [255 - images[:1]])
    by_hand = (255 - 2 * images[0].double()).square().mean().sqrt()
    assert distance[0] == pytest.approx(float(by_hand), rel=1e-5)


def test_pairwise_distance():
    assert distances.pairwise_distance(
        torch.tensor([[0.0, 0.0], [3.0, 3.0], [6.0, 6.0]])
    ) == pytest.approx(4)
    assert distances.pairwise_distance(torch.zeros(5, 3)) == 0


def test_pixels_tell_real_digits_from_changed_ones():
    extract = distances.load_features(None, torch.device("cpu")).extract
    real, other = extract(digits()[::2])[0], extract(digits()[1::2])[0]
    assert real.shape == (899, 64)
    floor = distances.frechet_distance(real, other)
    faded = extract(digits()[1::2] // 2)[0]
    assert distances.frechet_distance(real, faded) > 20 * floor


def test_features_of_a_classifier_run_are_what_its_last_layer_receives(finished_run):
    found = distances.load_features(str(finished_run.path), torch.device("cpu"))
    values, probabilities = found.extract(digits()[:6])
    assert (found.name, values.shape) == (finished_run.name, (6, 32))
    assert probabilities is not None
    expected = [p.probs for p in finished_run.predict([i[0].numpy() for i in digits()[:6]])]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    last = dict(finished_run_tensors(finished_run.path))
    weight, bias = [v for k, v in last.items() if v.shape[0] == 10]
    weight, bias = (weight, bias) if weight.ndim == 2 else (bias, weight)
    logits = (values @ weight.T + bias) / finished_run.read("model.json")["temperature"]
    np.testing.assert_allclose(torch.softmax(logits, 1), expected, rtol=1e-4, atol=1e-6)


def finished_run_tensors(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors").items()


def test_features_of_a_weight_file(tmp_path):
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "squeezenet1_1.safetensors")
    found = distances.load_features(
        str(tmp_path / "squeezenet1_1.safetensors"), torch.device("cpu")
    )
    values, probabilities = found.extract(digits()[:3])
    assert (found.name, values.shape, probabilities) == ("squeezenet1_1", (3, 512), None)
    assert "128x128" in found.protocol


def test_features_of_installed_weights_are_those_of_timm_and_never_called_fid():
    import timm

    from tintype.runs.packaged_weights import weights_file

    found = distances.load_features("efficientnet_lite0", torch.device("cpu"))
    theirs: Any = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(weights_file("efficientnet_lite0"), weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors.values(), strict=True)))

    images = digits()[:12]
    values, probabilities = found.extract(images)
    enlarged = torch.nn.functional.interpolate(
        images.float().expand(-1, 3, -1, -1), (128, 128), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = theirs.forward_head(
            theirs.forward_features(enlarged / 127.5 - 1), pre_logits=True
        )
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4)
    assert probabilities is None
    assert (found.distance, "not FID" in found.protocol) == ("fd_efficientnet_lite0", True)
    figures = distances.figures(found.name, values[:6], values[6:], values[:5])
    assert not [name for name in figures if name.startswith("fid")]


def test_features_of_real_photos_are_kept_for_the_next_generator(monkeypatch):
    photos = open_data("digits").test.subset(torch.arange(20))
    index = torch.arange(20)
    found = distances.load_features("efficientnet_lite0", torch.device("cpu"))
    assert found.of_photos is not None
    first = found.of_photos(photos)
    torch.testing.assert_close(first, found.extract(photos.take(index).images)[0])

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FrozenBackbone, "compute", refuse)
    again = distances.load_features("efficientnet_lite0", torch.device("cpu"))
    assert again.of_photos is not None
    assert torch.equal(again.of_photos(photos.subset(index.flip(0))), first.flip(0))


@pytest.mark.parametrize(
    "name", ["nothing", "somewhere.safetensors", "nonsense.safetensors", "empty"]
)
def test_what_is_no_feature_network_is_a_line(tmp_path, name):
    (tmp_path / "nonsense.safetensors").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        distances.load_features(str(tmp_path / name), torch.device("cpu"))
    assert "\n" not in str(error.value)
