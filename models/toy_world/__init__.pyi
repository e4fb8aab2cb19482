from .autoencoder import AutoencoderTraining as AutoencoderTraining
from .frames import ToyWorldData as ToyWorldData
from .networks import build as build
