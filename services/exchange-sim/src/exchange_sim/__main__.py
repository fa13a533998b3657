from exchange_sim.app import build
from exchange_sim.settings import SimSettings
from quantum_common.service import run

run(lambda: build(SimSettings()))
