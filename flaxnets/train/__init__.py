"""Training: state, step, loop, losses, metrics, evaluation, checkpoints, runs."""

from flaxnets.train.checkpoint import Checkpoints as Checkpoints
from flaxnets.train.evaluation import Evaluation as Evaluation
from flaxnets.train.evaluation import Evaluator as Evaluator
from flaxnets.train.evaluation import probabilities as probabilities
from flaxnets.train.evaluation import scores as scores
from flaxnets.train.loop import Fitted as Fitted
from flaxnets.train.loop import fit as fit
from flaxnets.train.reconstruction import Restorer as Restorer
from flaxnets.train.run import RunFolder as RunFolder
from flaxnets.train.run import read_config as read_config
from flaxnets.train.state import State as State
from flaxnets.train.state import create as create
from flaxnets.train.state import make_step as make_step
from flaxnets.train.state import variables_of as variables_of
