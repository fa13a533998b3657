from quantum_common.service import run
from recorder_svc.app import build
from recorder_svc.settings import Settings

run(lambda: build(Settings()))
