from .export_options import ExportOptions as ExportOptions
from .exporting import export_file as export_file
from .fitting import Fitting as Fitting
from .options import ReconstructOptions as ReconstructOptions
from .paths import camera_path as camera_path
from .pipeline import Reconstruction as Reconstruction
from .pipeline import ReconstructPipeline as ReconstructPipeline
from .scene import Scene as Scene
