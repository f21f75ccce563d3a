"""Simulated patients with bone metastases: anatomy, lesions, scanner, and the truth."""

from osteomet.simulate.ceiling import attainable_auc
from osteomet.simulate.cohort import write_cohort
from osteomet.simulate.patient import LesionTruth, SimulatedPatient, simulate_patient
from osteomet.simulate.primaries import LesionType
from osteomet.simulate.settings import SIMULATION_VERSION, SimulationConfig

__all__ = [
    "SIMULATION_VERSION",
    "LesionTruth",
    "LesionType",
    "SimulatedPatient",
    "SimulationConfig",
    "attainable_auc",
    "simulate_patient",
    "write_cohort",
]
