import sys

from exchange_sim.app import build
from exchange_sim.settings import SimSettings
from quantum_common import QuantumError
from quantum_common.service import run

if __name__ == "__main__":
    try:
        service = build(SimSettings())
    except QuantumError as error:
        sys.exit(f"exchange-sim: {error}")
    run(service)
