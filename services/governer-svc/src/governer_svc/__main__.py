from governer_svc.app import main

main()
