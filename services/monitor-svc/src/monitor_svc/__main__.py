from monitor_svc.app import build
from monitor_svc.settings import Settings
from quantum_common.service import run

run(lambda: build(Settings()))
