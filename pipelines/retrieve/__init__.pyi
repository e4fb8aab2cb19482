from .pipeline import IndexReport as IndexReport
from .pipeline import Match as Match
from .pipeline import RetrievalResult as RetrievalResult
from .pipeline import RetrievePipeline as RetrievePipeline
