from .fitting import Fitting as Fitting
from .options import ReconstructOptions as ReconstructOptions
from .paths import camera_path as camera_path
from .pipeline import Reconstruction as Reconstruction
from .pipeline import ReconstructPipeline as ReconstructPipeline
from .scene import Scene as Scene
