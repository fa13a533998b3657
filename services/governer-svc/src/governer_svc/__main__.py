from governer_svc.app import build
from governer_svc.settings import Settings
from quantum_common.service import run

run(lambda: build(Settings()))
