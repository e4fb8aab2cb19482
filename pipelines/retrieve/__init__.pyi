from .duplicates import Duplicate as Duplicate
from .duplicates import DuplicateResult as DuplicateResult
from .duplicates import find_duplicates as find_duplicates
from .pipeline import RetrievePipeline as RetrievePipeline
from .results import IndexReport as IndexReport
from .results import Match as Match
from .results import RetrievalResult as RetrievalResult
