"""Tariffs and bills: pure. Money is Decimal, energy whole µWh, instants aware UTC."""
