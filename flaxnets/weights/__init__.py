"""Files of weights, read without trusting them."""

from flaxnets.weights.files import read as read
from flaxnets.weights.loading import load as load
