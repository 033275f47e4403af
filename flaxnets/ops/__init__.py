"""Pure array functions, channels last."""

from flaxnets.ops.batching import in_parts as in_parts
from flaxnets.ops.convolution import conv as conv
from flaxnets.ops.pooling import adaptive_avg_pool as adaptive_avg_pool
from flaxnets.ops.pooling import avg_pool as avg_pool
from flaxnets.ops.pooling import max_pool as max_pool
