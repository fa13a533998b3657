from meta_svc.app import main

main()
