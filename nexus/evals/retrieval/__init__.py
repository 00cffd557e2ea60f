"""Image retrieval: do the images that belong together find each other?"""

from nexus.evals.retrieval.config import RetrievalConfig
from nexus.evals.retrieval.ranking import Ranking, rank
from nexus.evals.retrieval.scoring import Answers, answer
from nexus.evals.retrieval.search import Search, open_search
from nexus.evals.retrieval.truth import GroupTruth, ListTruth, Truth

__all__ = [
    "Answers",
    "GroupTruth",
    "ListTruth",
    "Ranking",
    "RetrievalConfig",
    "Search",
    "Truth",
    "answer",
    "open_search",
    "rank",
]
