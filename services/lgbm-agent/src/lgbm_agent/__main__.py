from quantum_common.agent import build
from quantum_common.service import run

from lgbm_agent.model import MODEL
from lgbm_agent.settings import Settings

run(build(Settings(), MODEL))
