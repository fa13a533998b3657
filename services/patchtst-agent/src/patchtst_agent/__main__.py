from patchtst_agent.model import MODEL
from patchtst_agent.settings import Settings
from quantum_common.agent import build
from quantum_common.service import run

run(lambda: build(Settings(), MODEL))
