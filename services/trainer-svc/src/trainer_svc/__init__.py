"""trainer-svc: renews the models while the fleet trades."""
