"""python -m feature_svc"""

from feature_svc.app import main

main()
