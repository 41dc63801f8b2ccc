"""The jobs, as functions: what a notebook calls and what the command line calls.

Options are the fields of the job's configuration in :mod:`fashionbatch.config`, given as keyword
arguments. Heavy packages are imported when a job starts.
"""

from fashionbatch.api.catalogues import inspect, shard, verify
from fashionbatch.api.inference import predict
from fashionbatch.api.machine import doctor
from fashionbatch.api.pictures import explain, report
from fashionbatch.api.results import audit, evaluate, export, merge, search
from fashionbatch.api.telling import Tell
from fashionbatch.api.training import train

__all__ = [
    "Tell",
    "audit",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "inspect",
    "merge",
    "predict",
    "report",
    "search",
    "shard",
    "train",
    "verify",
]
