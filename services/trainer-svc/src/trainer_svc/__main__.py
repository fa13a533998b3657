from quantum_common.service import run
from trainer_svc.app import build
from trainer_svc.settings import Settings

run(lambda: build(Settings()))
