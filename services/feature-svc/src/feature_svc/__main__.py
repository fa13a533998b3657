from feature_svc.app import build
from feature_svc.settings import Settings
from quantum_common.service import run

run(lambda: build(Settings()))
