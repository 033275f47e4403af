"""Pure array functions, channels last."""

from flaxnets.ops.batching import in_parts as in_parts
from flaxnets.ops.convolution import conv as conv
from flaxnets.ops.gradients import unsigned_gradients as unsigned_gradients
from flaxnets.ops.pooling import adaptive_avg_pool as adaptive_avg_pool
from flaxnets.ops.pooling import avg_pool as avg_pool
from flaxnets.ops.pooling import max_pool as max_pool
from flaxnets.ops.transposed import conv_transpose as conv_transpose
from flaxnets.ops.transposed import unpooled_conv as unpooled_conv
from flaxnets.ops.unpooling import bed_of_nails as bed_of_nails
from flaxnets.ops.unpooling import depth_to_space as depth_to_space
from flaxnets.ops.unpooling import max_pool_with_switches as max_pool_with_switches
from flaxnets.ops.unpooling import max_unpool as max_unpool
from flaxnets.ops.unpooling import nearest as nearest
