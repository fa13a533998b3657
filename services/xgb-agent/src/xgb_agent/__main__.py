from quantum_common.agent import build
from quantum_common.service import run
from xgb_agent.model import MODEL
from xgb_agent.settings import Settings

run(lambda: build(Settings(), MODEL))
