from executor_svc.app import build
from executor_svc.settings import ExecutorSettings
from quantum_common.service import run

run(lambda: build(ExecutorSettings()))
