"""Pretrained weights: a catalogue, downloads, and files read without trusting them."""

from flaxnets.weights.catalogue import Entry as Entry
from flaxnets.weights.catalogue import entries as entries
from flaxnets.weights.catalogue import find as find
from flaxnets.weights.catalogue import tags as tags
from flaxnets.weights.creation import preprocessing as preprocessing
from flaxnets.weights.files import read as read
from flaxnets.weights.loading import load as load
from flaxnets.weights.saving import save as save
