"""`python -m infra.simulator`: simulated, claimed devices, until SIGTERM."""

from infra.cli.simulate import main

main()
