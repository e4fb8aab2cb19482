from .unet import SlowFastUNet as SlowFastUNet
