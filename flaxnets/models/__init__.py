"""Architectures: Linen modules that return `(output, endpoints)`, nothing else."""

from flaxnets.models.alexnet import AlexNet as AlexNet
from flaxnets.models.autoencoder import Autoencoder as Autoencoder
from flaxnets.models.autoencoder import Code as Code
from flaxnets.models.autoencoder import Decoder as Decoder
from flaxnets.models.autoencoder import Encoder as Encoder
from flaxnets.models.autoencoder import Level as Level
from flaxnets.models.cnn import CNN as CNN
from flaxnets.models.dcgan import DCGANDiscriminator as DCGANDiscriminator
from flaxnets.models.dcgan import DCGANGenerator as DCGANGenerator
from flaxnets.models.googlenet import GoogLeNet as GoogLeNet
from flaxnets.models.heads import Head as Head
from flaxnets.models.heads import WithHead as WithHead
from flaxnets.models.mirrors import decoder_for as decoder_for
from flaxnets.models.mirrors import pooling_levels as pooling_levels
from flaxnets.models.perturber import Perturber as Perturber
from flaxnets.models.perturber import perturbed as perturbed
from flaxnets.models.registry import build as build
from flaxnets.models.registry import list_models as list_models
from flaxnets.models.resnet import ResNet as ResNet
from flaxnets.models.shared import SharedAutoencoder as SharedAutoencoder
from flaxnets.models.spectral import SpectralConv as SpectralConv
from flaxnets.models.squeezenet import SqueezeNet as SqueezeNet
from flaxnets.models.vgg import VGG as VGG
