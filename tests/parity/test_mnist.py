"""The lecture's recipe against the defaults of Keras, in which the lecture has it."""

import pytest

from experiments import mnist

keras = pytest.importorskip("keras", reason="Keras is not installed (extra peers)")


def test_the_lectures_recipe_is_kerass_default() -> None:
    recipe = mnist.RECIPES["lecture"]
    adam = keras.optimizers.Adam()
    # Its `name` is numbered where another test has made one before.
    assert recipe.optimizer == type(adam).__name__.lower()
    assert recipe.learning_rate == pytest.approx(float(adam.learning_rate))
    assert recipe.epsilon == adam.epsilon
    drawn = keras.layers.Dense(1).kernel_initializer
    assert recipe.initializer == "glorot_uniform"
    assert isinstance(drawn, keras.initializers.GlorotUniform)
