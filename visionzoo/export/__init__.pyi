from .arguments import check_export as check_export
from .export import export_model as export_model
from .registered import export_registered as export_registered
from .report import ExportReport as ExportReport
