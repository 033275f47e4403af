"""Data sets as arrays, and the order in which training sees them."""

from flaxnets.data.arrays import fingerprint as fingerprint
from flaxnets.data.datasets import Dataset as Dataset
from flaxnets.data.datasets import Split as Split
from flaxnets.data.datasets import load as load
from flaxnets.data.folders import ImageFolder as ImageFolder
from flaxnets.data.folders import Listing as Listing
from flaxnets.data.folders import image_folder as image_folder
from flaxnets.data.loading import epoch_order as epoch_order
from flaxnets.data.loading import steps_per_epoch as steps_per_epoch
from flaxnets.data.official import cats_and_dogs as cats_and_dogs
from flaxnets.data.streams import Pictures as Pictures
