from recorder_svc.app import main

main()
