"""Transfer learning: frozen parts, and their outputs computed once."""

from flaxnets.transfer.boundary import Boundary as Boundary
from flaxnets.transfer.certificate import certificate as certificate
from flaxnets.transfer.certificate import fingerprint as fingerprint
from flaxnets.transfer.modes import MODES as MODES
from flaxnets.transfer.modes import frozen_globs as frozen_globs
from flaxnets.transfer.modes import layers as layers
from flaxnets.transfer.modes import scale_updates as scale_updates
from flaxnets.transfer.plan import Plan as Plan
from flaxnets.transfer.plan import transplanted as transplanted
from flaxnets.transfer.thawing import Phase as Phase
from flaxnets.transfer.thawing import fit_phases as fit_phases
from flaxnets.transfer.thawing import phase_at as phase_at
from flaxnets.transfer.thawing import thawed as thawed
