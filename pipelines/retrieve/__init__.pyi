from .pipeline import RetrievePipeline as RetrievePipeline
from .results import IndexReport as IndexReport
from .results import Match as Match
from .results import RetrievalResult as RetrievalResult
