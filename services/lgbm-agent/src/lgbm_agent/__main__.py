from lgbm_agent.model import MODEL
from lgbm_agent.settings import Settings
from quantum_common.agent import build
from quantum_common.service import run

run(lambda: build(Settings(), MODEL))
