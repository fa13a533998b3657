"""`python -m executor_svc`."""

from executor_svc.app import build
from executor_svc.settings import ExecutorSettings
from quantum_common.service import run

if __name__ == "__main__":
    run(build(ExecutorSettings()))
