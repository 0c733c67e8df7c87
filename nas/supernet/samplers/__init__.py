"""Samplers: which networks a step of training takes. One idea per file."""

from nas.supernet.samplers.attentive import Attentive
from nas.supernet.samplers.base import Paced, Probe, Sampler, State
from nas.supernet.samplers.conflict_aware import ConflictAware
from nas.supernet.samplers.fair import Fair
from nas.supernet.samplers.performance_aware import PerformanceAware
from nas.supernet.samplers.sandwich import Sandwich
from nas.supernet.samplers.single_path import SinglePath
from nas.supernet.samplers.subnet_aware import SubnetAware

__all__ = [
    "Attentive",
    "ConflictAware",
    "Fair",
    "Paced",
    "PerformanceAware",
    "Probe",
    "Sampler",
    "Sandwich",
    "SinglePath",
    "State",
    "SubnetAware",
]
