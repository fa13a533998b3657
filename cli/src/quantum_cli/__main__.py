from quantum_cli.main import app

app()
