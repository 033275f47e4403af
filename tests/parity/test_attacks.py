"""Attacks against torchattacks, on a LeNet that was trained elsewhere.

In double precision: in single, the signs of a few gradients of about zero are those of
rounding errors, and no two programs agree on them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxnets import attack, data, ops, weights
from flaxnets.attack import base, minimal

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")
torchattacks = pytest.importorskip(
    "torchattacks", reason="torchattacks is not installed"
)

COUNT = 64
# A number of float32 too, so that no rounding of it sends a picture another way.
EPSILON = 3 / 16


def lenet(variables: Any, images: jax.Array) -> tuple[jax.Array, dict]:
    """The network of an early example of PyTorch, without its last log-softmax."""

    def row(name: str, rank: int) -> jax.Array:
        return variables[name].reshape(*[1] * (rank - 1), -1)

    x = images
    for name in ("conv1", "conv2"):
        # Compiled sooner than the library's, and as good for few pictures.
        x = jax.lax.conv_general_dilated(
            x,
            variables[f"{name}.weight"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )
        x = jax.nn.relu(ops.max_pool(x + row(f"{name}.bias", 4), 2))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    x = jax.nn.relu(x @ variables["fc1.weight"].T + row("fc1.bias", 2))
    return x @ variables["fc2.weight"].T + row("fc2.bias", 2), {}


class LeNet(torch.nn.Module):
    """The same in PyTorch."""

    def __init__(self, variables: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 10, 5)
        self.conv2 = torch.nn.Conv2d(10, 20, 5)
        self.fc1 = torch.nn.Linear(320, 50)
        self.fc2 = torch.nn.Linear(50, 10)
        self.double()
        self.load_state_dict(
            {name: torch.tensor(array) for name, array in variables.items()}
        )
        self.eval()

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = functional.relu(functional.max_pool2d(self.conv1(x), 2))
        x = functional.relu(functional.max_pool2d(self.conv2(x), 2))
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


class Bench:
    """One network and some pictures in both libraries."""

    def __init__(self, folder: Path) -> None:
        found = weights.read(folder / "lenet_mnist_zip.pth")
        self.variables = {k: np.asarray(v, np.float64) for k, v in found.items()}
        # The peer's margins know no negative logits; softmax does not see the shift.
        self.variables["fc2.bias"] += 50
        self.network = LeNet(self.variables)
        self.test = data.load(str(folder / "mnist.npz")).test
        self.images = self.test.images[:COUNT].astype(np.float64) / 255
        self.labels = np.asarray(self.test.labels[:COUNT], np.int32)

    def ours(
        self, made: base.Attack, images: np.ndarray, labels: np.ndarray | None = None
    ) -> np.ndarray:
        labels = self.labels[: len(images)] if labels is None else labels
        with jax.enable_x64(True):
            run = jax.jit(
                lambda *arguments: made(
                    lambda images: lenet(self.variables, images)[0], *arguments
                )
            )
            return np.asarray(run(images, labels, jax.random.key(0)))

    def theirs(
        self, peer: Any, images: np.ndarray, labels: np.ndarray | None = None
    ) -> np.ndarray:
        labels = self.labels[: len(images)] if labels is None else labels
        classes = torch.tensor(labels.astype(np.int64))
        found = peer(torch.tensor(np.moveaxis(images, -1, 1).copy()), classes)
        return np.moveaxis(found.detach().numpy(), 1, -1)

    def classes(self, images: np.ndarray) -> np.ndarray:
        """By the network in PyTorch, whoever made the pictures."""
        logits = self.network(torch.tensor(np.moveaxis(images, -1, 1).copy()))
        return logits.argmax(dim=1).numpy()

    def fooled(self, images: np.ndarray) -> np.ndarray:
        return self.classes(images) != self.labels[: len(images)]

    def check_same(
        self, peer: Any, made: base.Attack, images: np.ndarray
    ) -> np.ndarray:
        """The same pictures, of which some are fooled and not only at first."""
        expected, found = self.theirs(peer, images), self.ours(made, images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(self.fooled(found), self.fooled(expected))
        assert self.fooled(found).mean() > self.fooled(images).mean() + 0.1
        return found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    folder = os.environ.get("FLAXNETS_DATA")
    if folder is None:
        pytest.skip("FLAXNETS_DATA is not set: no real data here")
    # So small a network waits for its threads longer than it computes.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(Path(folder))
    torch.set_num_threads(threads)


def test_fgsm(bench: Bench) -> None:
    peer = torchattacks.FGSM(bench.network, eps=EPSILON)
    bench.check_same(peer, attack.fgsm(EPSILON), bench.images)


def test_bim(bench: Bench) -> None:
    peer = torchattacks.BIM(bench.network, eps=EPSILON, alpha=EPSILON / 8, steps=8)
    found = bench.check_same(peer, attack.bim(EPSILON, steps=8), bench.images)
    # In single precision the pictures differ in a few values, not in their success.
    variables = {k: v.astype(np.float32) for k, v in bench.variables.items()}
    single = attack.run(
        attack.bim(EPSILON, steps=8),
        lenet,
        variables,
        bench.images.astype(np.float32),
        bench.labels,
        key=jax.random.key(0),
    )
    assert single.fooled.mean() == pytest.approx(bench.fooled(found).mean(), abs=0.01)


def test_pgd(bench: Bench) -> None:
    peer = torchattacks.PGD(
        bench.network, eps=EPSILON, alpha=0.03, steps=10, random_start=False
    )
    made = attack.pgd(EPSILON, steps=10, step_size=0.03, random_start=False)
    bench.check_same(peer, made, bench.images)


def test_pgd_towards_targets(bench: Bench) -> None:
    targets = (bench.labels + 1) % 10
    options = {"steps": 10, "random_start": False}
    peer = torchattacks.PGD(bench.network, eps=EPSILON, alpha=0.03, **options)
    peer.set_mode_targeted_by_label(quiet=True)
    made = attack.pgd(EPSILON, step_size=0.03, targeted=True, **options)
    expected = bench.theirs(peer, bench.images, targets)
    found = bench.ours(made, bench.images, targets)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    reached = bench.classes(found) == targets
    np.testing.assert_array_equal(reached, bench.classes(expected) == targets)
    assert 0.1 < reached.mean() < 0.9


def test_pgd_from_random_starts_breaks_as_many(bench: Bench) -> None:
    images = bench.test.images[:1000].astype(np.float64) / 255
    labels = np.asarray(bench.test.labels[:1000], np.int32)
    torch.manual_seed(0)
    peer = torchattacks.PGD(bench.network, eps=EPSILON, alpha=0.03, steps=10)
    made = attack.pgd(EPSILON, steps=10, step_size=0.03)
    shares = [
        np.mean(bench.classes(run(its, images, labels)) != labels)
        for run, its in ((bench.theirs, peer), (bench.ours, made))
    ]
    assert 0.1 < shares[0] < 0.9
    assert shares[1] == pytest.approx(shares[0], abs=0.01)


def test_pgd_for_l2(bench: Bench) -> None:
    # By default the peer adds 1e-10 to the norm of a gradient that it divides by the
    # size of the batch, so that the step for a confident picture is shorter.
    peer = torchattacks.PGDL2(
        bench.network,
        eps=2.0,
        alpha=0.3,
        steps=10,
        random_start=False,
        eps_for_division=0.0,
    )
    made = attack.pgd(2.0, "l2", steps=10, step_size=0.3, random_start=False)
    bench.check_same(peer, made, bench.images)


def test_mi_fgsm(bench: Bench) -> None:
    peer = torchattacks.MIFGSM(
        bench.network, eps=EPSILON, alpha=EPSILON / 8, steps=8, decay=0.9
    )
    made = attack.mi_fgsm(EPSILON, decay=0.9, steps=8)
    bench.check_same(peer, made, bench.images)


def test_deepfool(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step; then, that the peer stays before boundaries and ours does not.

    The peer goes past the boundary by a share of the step only. Where half of each
    step is cut off at black, it comes ever nearer and never crosses.
    """
    images = bench.images[:8]
    peer = torchattacks.DeepFool(bench.network, steps=8)
    found = bench.ours(attack.deepfool(), images)
    assert bench.fooled(found).all()
    near = bench.theirs(peer, images)
    assert bench.fooled(near).mean() < 0.5
    np.testing.assert_allclose(found, near, rtol=0, atol=5e-3)
    monkeypatch.setattr(minimal, "_FURTHER", 0.0)
    same = bench.ours(attack.deepfool(steps=8), images)
    np.testing.assert_allclose(same, near, rtol=0, atol=1e-4)


def test_carlini_wagner(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures that are grey, all different, and what their tangents give back.

    At exactly 0 and 1 the peer's tangents are infinite and never move. Values whose
    convolutions are equal but for rounding are pooled otherwise by each program, and
    Adam makes a gradient that is a rounding error as large as any other.
    """
    monkeypatch.setattr(minimal, "_INSIDE", 1.0)
    noise = np.random.default_rng(0).uniform(0, 0.05, bench.images[:32].shape)
    peer = torchattacks.CW(bench.network, c=10.0, steps=30, lr=0.01)
    images = torch.tensor(0.1 + 0.75 * bench.images[:32] + noise)
    for _ in range(30):
        images = peer.tanh_space(peer.inverse_tanh_space(images))
    made = attack.carlini_wagner(
        constant=10.0, search_steps=1, steps=30, early_abort=False
    )
    bench.check_same(peer, made, images.numpy())
