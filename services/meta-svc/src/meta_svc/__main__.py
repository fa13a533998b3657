from meta_svc.app import build
from meta_svc.settings import Settings
from quantum_common.service import run

run(lambda: build(Settings()))
