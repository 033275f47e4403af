"""Networks for pairs that are one matrix each, as functions like Linen's `apply`."""

import jax
import jax.numpy as jnp
import numpy as np

CLASSES, PIXELS = 3, 4


def generator(variables, images, *told, train=False, rngs=None, mutable=()):
    """Noise 0.3 tanh(images W); with targets, moved by a number for each class."""
    output = images.reshape(len(images), -1) @ variables["params"]["kernel"]
    if told:
        moved = jnp.asarray(variables["params"]["targets"])[told[0]]
        output = output + moved[:, None]
    return wrapped(0.3 * jnp.tanh(output).reshape(images.shape), variables, mutable)


def classifier(variables, images, *, train=False, rngs=None, mutable=()):
    """Logits images V; in training it counts its calls."""
    logits = images.reshape(len(images), -1) @ variables["params"]["kernel"]
    return wrapped(logits, variables, mutable)


def wrapped(output, variables, mutable):
    if not isinstance(mutable, list):
        return output, {}
    changed = {name: jax.tree.map(lambda v: v + 1, variables[name]) for name in mutable}
    return (output, {}), changed


def generator_variables(seed: int):
    return {
        "params": {
            "kernel": drawn(seed, PIXELS, PIXELS),
            "targets": np.arange(3, dtype=np.float32),
        }
    }


def classifier_variables(seed: int):
    return {
        "params": {"kernel": drawn(seed, PIXELS, CLASSES)},
        "calls": {"number": np.zeros((), np.float32)},
    }


def batch(seed: int, size: int = 6):
    images = np.random.default_rng(seed).random((size, 2, 2, 1), np.float32)
    return {"image": images, "label": np.arange(size, dtype=np.int32) % CLASSES}


def quick(function):
    """A function compiled without the optimizations that take longest."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
