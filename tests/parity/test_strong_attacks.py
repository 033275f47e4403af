"""Auto-PGD, FAB and Square against torchattacks, on a LeNet of other people."""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import attack, data, ops, weights
from flaxnets.attack.square import bumps, sides_of_squares
from tests.parity.exchange import channels_last

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torchattacks = pytest.importorskip(
    "torchattacks", reason="torchattacks is not installed"
)

COUNT = 64
NORMS = {"linf": "Linf", "l2": "L2"}
MEAN, DEVIATION = 0.1307, 0.3081


class LeNet(torch.nn.Module):
    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 20, 5)
        self.conv2 = torch.nn.Conv2d(20, 50, 5)
        self.fc1 = torch.nn.Linear(800, 500)
        self.fc2 = torch.nn.Linear(500, 10)
        self.load_state_dict({name: torch.tensor(arrays[name]) for name in arrays})

    def forward(self, x: Any) -> Any:
        x = (x - MEAN) / DEVIATION
        x = torch.nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = torch.nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def lenet(arrays: dict[str, np.ndarray]) -> attack.Logits:
    def logits(images: jax.Array) -> jax.Array:
        x = (images - MEAN) / DEVIATION
        for name in ("conv1", "conv2"):
            kernel = arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
            x = ops.conv(x, jnp.asarray(kernel, x.dtype), padding="VALID")
            x = x + arrays[f"{name}.bias"].reshape(1, 1, 1, -1)
            x = ops.max_pool(jax.nn.relu(x), 2)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        x = x @ arrays["fc1.weight"].T + arrays["fc1.bias"][None]
        return jax.nn.relu(x) @ arrays["fc2.weight"].T + arrays["fc2.bias"][None]

    return logits


@pytest.fixture
def arrays(real_data: Path) -> dict[str, np.ndarray]:
    tensors = weights.read(real_data / "lenet_mnist_legacy.pth")
    return {name: np.array(tensor) for name, tensor in tensors.items()}


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    test = data.load("mnist").test
    return test.images[:count].astype(np.float32) / 255, test.labels[:count]


def in_torch(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    first = torch.tensor(np.moveaxis(images, -1, 1).copy())
    return first, torch.tensor(labels.astype(np.int64))


@pytest.mark.parametrize(
    ("norm", "loss", "targets"),
    [("linf", "ce", None), ("linf", "dlr", 1), ("l2", "dlr", None)],
)
def test_apgd_takes_the_same_way_from_the_same_start(
    norm: attack.Norm, loss: Any, targets: int | None, arrays
) -> None:
    # In float64, since a sign or a comparison that rounding decides sends the points
    # apart. Targeted l2 is left out: torchattacks takes the first picture's step size
    # for all of them.
    epsilon = {"linf": 0.0625, "l2": 0.75}[norm]
    images, labels = digits(8)
    images = images.astype(np.float64)
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    options = {"norm": NORMS[norm], "eps": epsilon, "steps": 100}
    network = LeNet(arrays).double().eval()
    if targets is None:
        theirs = torchattacks.APGD(network, loss=loss, **options)
    else:
        theirs = torchattacks.APGDT(network, **options)
        theirs.target_class = 2

    def at_the_picture(shape: Any) -> Any:
        """Noise in a corner where all pictures are 0, and which points below that."""
        noise = torch.zeros(tuple(shape), dtype=torch.float64)
        noise[:, :, 0, 0] = -1
        return (noise + 1) / 2 if norm == "linf" else noise

    drawing = "rand" if norm == "linf" else "randn"
    with mock.patch.object(torch, drawing, at_the_picture):
        best, right, *_ = theirs.attack_single_run(*in_torch(images, labels))
    made = attack.apgd(epsilon, norm, loss=loss, targets=targets, random_start=False)
    with jax.enable_x64(True):
        found = jax.jit(
            lambda images: made(lenet(arrays), images, labels, jax.random.key(0))
        )(images)
        assert found.dtype == np.float64
        found = np.asarray(found)
    # Ours stops where a picture is misclassified, so the others are compared.
    standing = right.numpy().astype(bool)
    assert standing.sum() >= 5
    np.testing.assert_allclose(
        found[standing], channels_last(best)[standing], atol=1e-4
    )
    difference = np.abs(found[standing] - images[standing]).max(axis=(1, 2, 3))
    assert (difference > epsilon / 20).all()


@pytest.mark.parametrize(
    ("norm", "epsilon", "targets"), [("linf", 0.12, 3), ("l2", 1.5, None)]
)
def test_apgd_breaks_as_many_pictures(
    norm: attack.Norm, epsilon: float, targets: int | None, arrays
) -> None:
    images, labels = digits(100)
    network = LeNet(arrays).eval()
    options = {"norm": NORMS[norm], "eps": epsilon, "steps": 20}
    if targets is None:
        theirs = torchattacks.APGD(network, **options)
    else:
        theirs = torchattacks.APGDT(network, n_classes=targets + 1, **options)
    pictures, classes = in_torch(images, labels)
    adversarial = theirs(pictures, classes)
    expected = int((network(adversarial).argmax(dim=1) == classes).sum())
    loss = "ce" if targets is None else "dlr"
    made = attack.apgd(epsilon, norm, loss=loss, targets=targets, steps=20)

    @jax.jit
    def remaining(images: jax.Array) -> jax.Array:
        logits = lenet(arrays)
        found = made(logits, images, labels, jax.random.key(0))
        return (logits(found).argmax(axis=1) == labels).sum()

    assert 10 <= expected <= 90
    # A picture is a percent.
    assert abs(int(remaining(images)) - expected) <= 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.12), ("l2", 1.2)])
def test_fab_breaks_the_same_pictures(
    norm: attack.Norm, epsilon: float, arrays
) -> None:
    images, labels = digits(COUNT)
    network = LeNet(arrays).eval()
    theirs = torchattacks.FAB(
        network,
        NORMS[norm],
        epsilon,
        steps=10,
        multi_targeted=True,
        n_classes=3,
    )
    pictures, classes = in_torch(images, labels)
    adversarial = theirs(pictures, classes)
    expected = (network(adversarial).argmax(dim=1) != classes).numpy()
    made = attack.fab(epsilon, norm, targets=2, steps=10)

    @jax.jit
    def broken(images: jax.Array) -> jax.Array:
        logits = lenet(arrays)
        found = made(logits, images, labels, jax.random.key(0))
        return logits(found).argmax(axis=1) != labels

    assert 8 <= expected.sum() <= COUNT - 8
    # Without randomness the same ones fall, but for one that rounding may decide.
    assert (np.asarray(broken(images)) != expected).sum() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_goes_the_same_way_by_the_same_squares(
    norm: attack.Norm, arrays
) -> None:
    epsilon = {"linf": 0.1, "l2": 1.0}[norm]
    queries = 100
    images, labels = digits(1)
    sides = sides_of_squares(queries, 28, 28, 0.8, norm)
    made = attack.square(epsilon, norm, queries=queries)
    logits = lenet(arrays)

    @jax.jit
    def run(images: jax.Array) -> tuple[jax.Array, ...]:
        key = jax.random.key(0)
        found = made(logits, images, labels, key)
        own = jax.random.fold_in(key, 0)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.arange(queries))
        start = jax.random.uniform(keys[0], (28,) if norm == "linf" else (5, 5, 2))
        count = 3 if norm == "linf" else 6
        rest = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys[1:])
        return found, logits(found).argmax(axis=1), start, rest

    found, predicted, start, rest = (np.asarray(array) for array in run(images))
    # Otherwise both would stop early.
    assert predicted == labels
    draws = iter(as_they_draw(norm, start, rest, sides))
    theirs = torchattacks.Square(
        LeNet(arrays).eval(), NORMS[norm], epsilon, n_queries=queries - 1
    )
    theirs.p_selection = lambda query: (sides[query] / 28) ** 2
    pictures, classes = in_torch(images, labels)
    theirs.init_hyperparam(pictures)

    def rand(shape: list[int]) -> Any:
        count = int(np.prod(shape))
        return torch.tensor([next(draws) for _ in range(count)]).reshape(shape)

    with mock.patch.object(torch, "rand", rand):
        _, best = theirs.attack_single_run(pictures, classes)
    assert next(draws, None) is None
    # For l2 each query leaves up to 1e-5 of the budget unused, to keep the bound.
    np.testing.assert_allclose(found, channels_last(best), atol=1e-4)
    assert np.abs(found - images).max() > epsilon / 10


def as_they_draw(
    norm: attack.Norm, start: np.ndarray, rest: np.ndarray, sides: np.ndarray
) -> list[float]:
    """Our draws in the order and the ranges of their program, for one channel."""
    numbers = list(start.ravel())
    if norm == "l2":
        numbers = []
        for turn, sign in start.reshape(-1, 2):
            numbers += [1 - turn, sign]
    for row, side in zip(rest, sides, strict=False):
        *places, sign = row
        turn = [1 - places.pop()] if norm == "l2" else []
        # Theirs never chooses the last row and column, but takes it if it is told to.
        corners = [int(place * np.float32(29 - side)) for place in places]
        numbers += [(corner + 0.5) / (28 - side) for corner in corners]
        numbers += [*turn, sign]
    return [float(number) for number in numbers]


def test_square_has_the_same_sides_and_bumps() -> None:
    theirs = torchattacks.Square(torch.nn.Flatten(), n_queries=700)
    theirs.device = "cpu"
    shares = np.array([theirs.p_selection(query) for query in range(700)])
    expected = np.round(np.sqrt(shares * 28 * 28)).astype(int)
    np.testing.assert_array_equal(
        sides_of_squares(700, 28, 28, 0.8, "linf"), np.maximum(expected, 1)
    )
    np.testing.assert_array_equal(
        sides_of_squares(700, 28, 28, 0.8, "l2"), np.maximum(expected, 3) | 1
    )
    for side in (3, 6, 25):
        with mock.patch.object(torch, "rand", lambda shape: torch.zeros(shape)):
            pattern = theirs.eta(side)
        np.testing.assert_allclose(bumps(side), pattern.numpy(), atol=1e-6)
